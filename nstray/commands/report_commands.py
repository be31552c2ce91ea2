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


_page_option = click.option(
    "-o", "--to", required=True, metavar="FILE", help="The page, .html, local or s3://."
)
_seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the pairs that are drawn by lot."
)


@click.command("report", short_help="Write a report as one HTML file.")
@out_argument
@_page_option
@click.option("--title", metavar="TEXT", help="Title of the page. Default: the dataset's name.")
@click.option("--limit", type=int, help="Most pairs of the gallery.  [48]")
@_seed_option
@request_payer_option
@allow_remote_option
def report_command(out: str, to: str, title: str | None, limit: int | None, seed: int) -> None:
    """Write what people look at before they use a dataset: pictures, losses, failures, speed.

    The page is one file of at most 5 MB that opens without a network. It works on a job that runs,
    and on a million rows: counts come from the indexes, and pictures from a sample by style, label
    and status. Each number says of how many rows it is.

    \b
    nstray report OUT -o report.html
    """
    from nstray.commands.report import report
    from nstray.reports.gather import GALLERY

    found = report(out, to, seed=seed, limit=GALLERY if limit is None else limit, title=title)
    shown = counted(len(found.pairs), "pair")
    say(
        "\n".join(
            (
                f"{to}: {found.state}, {found.rows_done:,} of {counted(found.rows_total, 'row')}, "
                f"{shown} shown",
                found.sample,
                *(f"note: {note}" for note in found.notes),
            )
        )
    )


@click.command("compare", short_help="Compare two outputs pair by pair.")
@click.argument("left", metavar="OUT1")
@click.argument("right", metavar="OUT2")
@_page_option
@click.option("--title", metavar="TEXT", help="Title of the page. Default: both datasets' names.")
@click.option("--limit", type=int, help="Most pairs to show.  [40]")
@_seed_option
@request_payer_option
@allow_remote_option
def compare_command(
    left: str, right: str, to: str, title: str | None, limit: int | None, seed: int
) -> None:
    """Compare two outputs that were made of the same pairs with other settings.

    Pairs are joined on their ids or, if no id is in both, on content and style. The page shows what
    differs in the settings, the pictures side by side, and the losses of both.

    \b
    nstray compare OUT1 OUT2 -o compare.html
    """
    from nstray.commands.compare import compare
    from nstray.reports.compared import PAIRS

    most = PAIRS if limit is None else limit
    found = compare(left, right, to, seed=seed, limit=most, title=title)
    differ = ", ".join(name for name, _, _ in found.settings) or "no setting"
    say(
        "\n".join(
            (
                f"{to}: {counted(len(found.pairs), 'pair')} shown, joined on {found.joined_on}",
                f"what differs: {differ}",
                found.sample,
                *(f"note: {note}" for note in found.notes),
            )
        )
    )
