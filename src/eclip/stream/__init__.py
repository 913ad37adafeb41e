"""Many images: any number from folders, tables and tars, in bounded memory, on one machine or several."""
