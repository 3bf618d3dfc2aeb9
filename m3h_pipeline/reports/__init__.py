"""What people read: the scores of every arm, and one self-contained page."""
