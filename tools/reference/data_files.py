"""Writes small Parquet files as pandas, polars, DuckDB, Arrow and Spark do: crates/tasks/tests/fixtures/*.parquet.

Spark's files are imitated with Arrow: the older list layout, texts without a logical type, INT96 times.
All hold the same rows: text, label (in the writer's favourite type), turns, and columns that no task reads.
"""
import datetime
import pathlib

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/tasks/tests/fixtures"
OUT.mkdir(parents=True, exist_ok=True)

TEXT = ["a good film", "a bad film", "good ?", "bad ?"]
LABEL = [1, 0, 1, 0]
TIME = [datetime.datetime(2024, 1, day) for day in (1, 2, 3, 4)]
TURNS = [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in TEXT]


def arrow(**kinds):
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.table({
        "text": pa.array(TEXT, kinds.get("text", pa.string())),
        "label": pa.array(kinds.get("labels", LABEL), kinds.get("label", pa.int64())),
        "messages": pa.array(TURNS, pa.list_(turn)),
        "when": pa.array(TIME, pa.timestamp("us")),
        "blob": pa.array([b"\xff\xfe"] * 4, pa.binary()),
    })


def write(name, table, **options):
    pq.write_table(table, OUT / f"{name}.parquet", **options)


for codec in ["none", "snappy", "gzip", "zstd", "lz4"]:
    write(f"arrow-{codec}", arrow(), compression=codec, row_group_size=2)
write("arrow-brotli", arrow(), compression="brotli")
write("arrow-large", arrow(text=pa.large_string(), label=pa.int8()), data_page_version="2.0")
write("arrow-unsigned", arrow(label=pa.uint32()), use_dictionary=False)
write("arrow-decimal", arrow(label=pa.decimal128(5, 2)))
write("arrow-boolean", arrow(labels=[True, False, True, False], label=pa.bool_()))
write("arrow-dictionary", arrow(text=pa.dictionary(pa.int32(), pa.string())))
write("spark", arrow(text=pa.binary(), label=pa.int32()), use_deprecated_int96_timestamps=True,
      use_compliant_nested_type=False, compression="snappy")
write("arrow-null", arrow(labels=[1, None, 1, 0]))

frame = pd.DataFrame({"text": TEXT, "label": [1.0, 0.0, 1.0, 0.0], "kind": pd.Categorical(TEXT), "messages": TURNS})
frame.to_parquet(OUT / "pandas.parquet")
pl.DataFrame({"text": TEXT, "label": LABEL, "messages": TURNS}).write_parquet(OUT / "polars.parquet")
path = OUT / "duckdb.parquet"
duckdb.sql("select * from frame").select("text, label::TINYINT as label, messages").write_parquet(str(path))
