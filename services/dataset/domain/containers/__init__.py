"""What the rows of an upload are packed in: compressions, containers, and documents.

`opening` tells them by their first bytes and puts them together; each other file is one of them.
"""
