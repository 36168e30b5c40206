"""The server: merged parameters, their versions, its transforms, and what travels to it."""
