"""nstray.manifest.arrow_errors against the installed Arrow: fails if a new version words its errors in another way."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from nstray.manifest.arrow_errors import BadCell, EmptyFile, LongRow, RaggedRow, csv_error, first_line, is_not_utf8


def raised(data: bytes, block_size: int = 1 << 20, use_threads: bool = False) -> Exception:
    """What Arrow's reader raises for a CSV file, read as `nstray.manifest.csv_rows` reads it, but for the header."""
    with pytest.raises(pa.ArrowException) as caught:
        list(
            pacsv.open_csv(
                io.BytesIO(data),
                read_options=pacsv.ReadOptions(block_size=block_size, use_threads=use_threads),
                parse_options=pacsv.ParseOptions(newlines_in_values=True),
                convert_options=pacsv.ConvertOptions(column_types={"content": pa.string()}),
            )
        )
    return caught.value


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\n"])
def test_a_csv_file_without_rows(data: bytes) -> None:
    assert csv_error(raised(data)) == EmptyFile()


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ("c", 1),
        ("c,d,e", 3),
        ('"two\nlines",d,e', 3),
    ],
)
def test_a_ragged_row_is_known_with_its_number(row: str, columns: int) -> None:
    error = raised(f"content,style\na,b\n{row}\n".encode())
    assert csv_error(error) == RaggedRow(row=3, columns=columns, expected=2, text=row)


def test_blank_lines_and_lines_in_quotes_count_for_no_row() -> None:
    assert csv_error(raised(b'content,style\n\n"a\nb",c\n\nd\n')) == RaggedRow(row=3, columns=1, expected=2, text="d")


def test_a_row_of_more_than_a_block_is_known() -> None:
    assert csv_error(raised(b"content,style\na," + b"x" * 5000 + b"\n", block_size=1024)) == LongRow()


def test_a_long_ragged_row_is_cut_at_a_cell() -> None:
    cells = ["x" * 40, "password=hidden", "y" * 200]
    found = csv_error(raised(("content,style\na,b\n" + ",".join(cells) + "\n").encode()))
    assert isinstance(found, RaggedRow)
    assert found.text == "x" * 40 + ",password=..."  # Arrow shows 100 characters and "..."


def test_a_cell_that_does_not_convert_is_known_with_its_row_and_column() -> None:
    rows = "".join(f"a,{i}\n" for i in range(500))
    found = csv_error(raised(f"content,n\n{rows}b,x\n".encode(), block_size=1024))
    assert found == BadCell(row=502, column=1, kind="int64", reason="invalid value 'x'")


def test_a_cell_of_a_reader_with_threads_has_no_row() -> None:
    rows = "".join(f"a,{i}\n" for i in range(500))
    found = csv_error(raised(f"content,n\n{rows}b,x\n".encode(), block_size=1024, use_threads=True))
    assert found == BadCell(row=None, column=1, kind="int64", reason="invalid value 'x'")


def test_text_that_is_not_utf8_in_csv() -> None:
    found = csv_error(raised(b"content,style\na,b\nc\xff,d\n"))
    assert isinstance(found, BadCell)
    assert (found.row, found.column) == (3, 0)
    assert is_not_utf8(found.reason)


def test_text_that_is_not_utf8_in_an_array() -> None:
    array = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    with pytest.raises(pa.ArrowException) as caught:
        array.validate(full=True)
    assert is_not_utf8(str(caught.value))


def test_another_fault_of_an_array_is_not_taken_for_one_of_utf8() -> None:
    array = pa.Array.from_buffers(pa.date64(), 1, [None, pa.py_buffer(b"\1" + b"\0" * 7)])  # a millisecond is no day
    with pytest.raises(pa.ArrowException) as caught:
        array.validate(full=True)
    assert not is_not_utf8(str(caught.value))


def test_other_errors_are_not_read() -> None:
    assert csv_error(ValueError("anything")) is None


def test_the_first_line_is_short_and_redacted() -> None:
    assert first_line(ValueError("password=hidden at\nmore")) == "password=... at"
    assert len(first_line(ValueError("x" * 1000))) == 300
