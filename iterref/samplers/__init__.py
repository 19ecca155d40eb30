"""Methods, one a file; the file's name is the method's public name (`iterref.registry`)."""
