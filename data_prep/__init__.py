"""From a raw event log to a prepared dataset."""
