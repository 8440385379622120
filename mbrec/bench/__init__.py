"""The comparison of methods: one search budget for all, several seeds, one table.

spec       what a BENCH.toml may say            presets  those that come with mbrec
plan       the searches and runs it asks for    search   the settings that a search tries
store      the bench's folder                   cells    one run: train, measure, delete
workers    processes that run cells             bench    the whole, resumable
results    the tidy Parquet file                tables, markdown  what people read
"""
