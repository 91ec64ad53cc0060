"""Podium: from the organisers' files of an image-classification competition to a submission that can be trusted."""
