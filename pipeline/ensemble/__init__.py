"""From several models' outputs to one answer a row, with weights that out-of-fold rows alone decide."""
