"""The search for better settings: `space` says what varies, `study` remembers, `prune` gives up, `driver` runs it."""
