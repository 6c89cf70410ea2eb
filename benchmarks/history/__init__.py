"""A generator of realistic history: the tasks of a shop over some weeks, with its failures and workflows."""
