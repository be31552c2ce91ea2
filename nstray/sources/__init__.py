"""Where a picture's bytes are: a loose file, or a member of an archive, read by ranges.

An archive is a tar, a Parquet file or an Arrow file (IPC stream or file format). What a reference
may be is in `nstray.sources.reference`.
"""
