"""``capbg`` on the command line, and ``python -m capbg.cli``."""

import os
import sys


def main() -> None:
    """Run the command line; without the extra, say how to get it."""
    try:
        import click
        import rich  # noqa: F401 - looked for here, so that what is missing is said once and in a sentence
    except ImportError as missing:
        print(f"capbg: the command line needs {missing.name}: pip install 'capbg[cli]'", file=sys.stderr)
        sys.exit(2)  # as for every wrong use: 1 would mean that something was lost, or found
    from capbg.cli.check import check
    from capbg.cli.rehearse import rehearse
    from capbg.cli.unit import unit

    @click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
    @click.version_option(package_name="capbg")
    def capbg() -> None:
        """See a service's shutdown before it happens: rehearse it, check its unit, write one."""

    for command in (rehearse, check, unit):
        capbg.add_command(command)
    try:
        try:
            capbg(prog_name="capbg")
        finally:
            if sys.stdout is not None:  # it was closed when this was started
                sys.stdout.flush()
    except OSError as error:  # a full disk behind the standard output; what may fail elsewhere has its own sentence
        print(f"capbg: {error}", file=sys.stderr)
        os._exit(2)  # what is left in the buffer would fail once more at the interpreter's end


if __name__ == "__main__":
    main()
