"""``capbg rehearse``: its options and words."""

import click


@click.command()
def rehearse() -> None:
    """To be written."""
