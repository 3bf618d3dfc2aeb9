"""Reading what people wrote: plain files only, in a known encoding, with errors that say the line."""
