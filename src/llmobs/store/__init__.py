"""The record: tables, the journal that writes them, and the queries that read them."""
