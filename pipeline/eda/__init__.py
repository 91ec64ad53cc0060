"""A first look at the competition: facts as plain data, and findings that say what to do about them."""
