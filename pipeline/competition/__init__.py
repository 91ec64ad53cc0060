"""What the organisers gave. One small module per source; all of them hand over the same `Competition`."""
