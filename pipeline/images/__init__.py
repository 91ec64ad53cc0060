"""Image files: `content` knows which bytes they hold, `decode` turns them into arrays."""
