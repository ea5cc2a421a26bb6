"""The order of levels in a message, where it is not best first."""

# The levels of size 0, then the others, both best first: a recording made of another exchange's data.
REMOVED_FIRST = "removed first"
