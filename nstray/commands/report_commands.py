"""The commands that draw what people look at, on the command line: their options and answers."""

from __future__ import annotations

import click

from nstray.commands.options import allow_remote_option, out_argument, request_payer_option
from nstray.commands.printing import say
from nstray.text import counted


@click.command("sheet", short_help="Draw a sheet of the pictures.")
@out_argument
@click.option(
    "-o",
    "--to",
    required=True,
    metavar="FILE",
    help="The sheet's file, .png or .pdf, local or s3://.",
)
@click.option(
    "--rows",
    metavar="COLUMN",
    help="For a figure: the carried column that gives a picture's row.  [figure_row, if carried]",
)
@click.option(
    "--columns",
    metavar="COLUMN",
    help="For a figure: the carried column that gives a picture's column. Without it the pictures "
    "of a row stand side by side.",
)
@click.option("--title", metavar="TEXT", help="Title of the sheet. Default: the dataset's name.")
@click.option(
    "--limit",
    type=int,
    help="Most pairs to show. Default: 24 of a dataset, all of a figure up to 200.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the pairs that are drawn by lot."
)
@request_payer_option
@allow_remote_option
def sheet_command(
    out: str,
    to: str,
    rows: str | None,
    columns: str | None,
    title: str | None,
    limit: int | None,
    seed: int,
) -> None:
    """Draw a labelled sheet of a dataset's pictures, or lay them out as the rows and columns of a
    figure.

    The pictures are drawn by style, label and status from the whole dataset, with their originals.
    All styles appear if there are no more than --limit.

    The manifest's own columns, carried through to the output, say where a picture stands in a
    figure. figure_row and figure_column do so without being named. Rows and columns are in the
    order of their labels, numbers by value. If the manifest carries figure_order (numbers), they
    are in the order in which they first appear by it.

    \b
    nstray sheet OUT -o sheet.png
    nstray sheet OUT -o figure.pdf --rows layers --columns ratio
    """
    from nstray.commands.sheet import sheet

    lines: list[str] = []
    shown = sheet(
        out,
        to,
        rows=rows,
        columns=columns,
        title=title,
        limit=limit,
        seed=seed,
        say=lines.append,
    )
    say("\n".join([f"{counted(shown, 'pair')} in {to}", *lines]))
