"""Formats that people train from: plain files, class folders, WebDataset, packed Parquet."""
