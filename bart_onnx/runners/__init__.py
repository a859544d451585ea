"""The only place that owns device memory: sessions, caches, providers."""
