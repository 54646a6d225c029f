"""Uploaded tables are read in a process of their own: small files that unpack to gigabytes are refused."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nas.core.errors import InvalidData
from predictors.onboarding import table_child
from predictors.onboarding.table_child import read_isolated
from predictors.onboarding.tables import read_table


def parquet(**columns: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd")
    return out.getvalue()


def test_a_table_is_read_as_it_is() -> None:
    data = b"arch,ms\n0-1-2,1.5\n1-1-1,2.5\n"
    assert read_isolated(data, "csv") == read_table(data, "csv")


def test_a_wrong_table_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidData, match=r"^row 1: expected 2 cells as in the header, got 1$"):
        read_isolated(b"arch,ms\n1\n", "csv")
    with pytest.raises(InvalidData, match=r"expected a column ms.*\\ud800"):  # which UTF-8 cannot encode
        read_isolated(b'[{"\\ud800": 1}]', "json")


def test_parquet_files_of_some_kilobytes_that_hold_gigabytes_are_refused() -> None:
    rows = 20_000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 100_000]))
    ms = pa.array([1.0] * rows)
    for data in (parquet(arch=text, ms=ms), parquet(arch=pa.array([[0] * 2000] * rows), ms=ms)):
        assert len(data) < 20_000
        with pytest.raises(InvalidData, match="bytes"):
            read_isolated(data, "parquet")


def test_rows_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidData, match="bytes of memory"):
        read_isolated(b"a" + b"," * 20_000_000, "csv")
    monkeypatch.setattr(table_child, "SECONDS", 0.01)
    with pytest.raises(InvalidData, match=r"within 0\.01 s"):
        read_isolated(b"arch,ms\n1,1\n", "csv")
