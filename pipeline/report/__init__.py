"""Tables and pictures of data that is handed over; knows nothing of where it came from."""
