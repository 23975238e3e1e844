"""``capbg check``: its options and words."""

import click


@click.command()
def check() -> None:
    """To be written."""
