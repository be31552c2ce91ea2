"""What lies at a path: pictures in folders, tars, Parquet and Arrow files, with their columns."""
