"""A run: its parts are built, it is trained, scored and recorded; and it is evaluated again."""
