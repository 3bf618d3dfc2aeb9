-- A row's number in all files: that of its file above 40 bits, that within the file below.
CREATE TEMP MACRO number_row(file_number, file_row) AS (file_number::BIGINT << 40) + file_row + 1;

CREATE TEMP MACRO file_name(x) AS getvariable('file_names')[(x >> 40)::INT + 1];

CREATE TEMP MACRO row_in_file(x) AS x & ((1::BIGINT << 40) - 1);

CREATE TEMP MACRO moment(x) AS TRY_CAST(x AS TIMESTAMP);

-- All rows of the shards.
CREATE TEMP VIEW meds AS
SELECT
    data.* EXCLUDE (filename, file_row_number),
    number_row(files.number, file_row_number) AS source_row
FROM read_parquet(
    getvariable('shards'), filename = true, file_row_number = true, union_by_name = true
) data
JOIN files ON files.path = filename
