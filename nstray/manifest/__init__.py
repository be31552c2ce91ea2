"""What a pair is, and manifests of pairs: reading, checking, building, cutting into shards.

Reading goes from the files to typed rows:

- files: the files of a manifest, as a stream of raw record batches (Parquet, CSV, JSON Lines)
- arrow_errors: what Arrow's error messages say about a file
- column_names: which columns a manifest may have
- canonical: raw batches to canonical columns
- text_columns: columns of text and of lists, whatever type the file gives them
- arrow_columns: whole Arrow columns as flags, lists and sized text
- references: paths and URIs made absolute
- overrides: settings that a row sets for itself
- pair_ids: the ids that rows give, and the default ones
- problems: what is wrong with rows, with their places
- manifest: `Manifest`, which checks the whole and yields its tables
- pair: `Pair`, one row, and `ManifestInfo`, what a check found

What is known about a manifest as a whole:

- carried_types: the Arrow types that carried columns may have
- duplicates: ids that appear more than once
- rows_digest: a digest of the rows, whatever files hold them
- cached_check: what a check found, stored in the job's record

What is made of one, or makes one:

- shards: rows to windows and shards
- build: a manifest of two sources, in steps:
- build_labels: where labels and splits come from
- build_listing: pictures listed into a temporary file
- build_names, build_references: what ids and the manifest call a picture
- build_columns: names and metadata of carried columns
- build_draw: which contents, and which styles for each
- build_shapes: widths and heights of loose pictures
- build_rows, build_write: the rows, and their file
"""
