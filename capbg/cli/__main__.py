"""``capbg`` on the command line, and ``python -m capbg.cli``."""

import sys


def main() -> None:
    """Run the command line; without the extra, say how to get it."""
    try:
        import click
        import rich  # noqa: F401 - looked for here, so that what is missing is said once and in a sentence
    except ImportError as missing:
        sys.exit(f"capbg: the command line needs {missing.name}: pip install 'capbg[cli]'")
    from capbg.cli.check import check
    from capbg.cli.rehearse import rehearse
    from capbg.cli.unit import unit

    @click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
    @click.version_option(package_name="capbg")
    def capbg() -> None:
        """See a service's shutdown before it happens: rehearse it, check its unit, write one."""

    for command in (rehearse, check, unit):
        capbg.add_command(command)
    capbg(prog_name="capbg")


if __name__ == "__main__":
    main()
