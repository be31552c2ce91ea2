"""The dataset on storage: its columns, its parts, its records and its card."""
