"""The driver of Foo."""
