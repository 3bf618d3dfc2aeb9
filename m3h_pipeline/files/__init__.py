"""Files that people wrote: plain files only, in a known encoding; errors say the line."""
