"""Serving: requests of many callers decoded together. No module here knows a model's graphs."""
