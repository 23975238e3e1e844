"""``capbg unit``: its options and words."""

import click


@click.command()
def unit() -> None:
    """To be written."""
