"""Records become the documents that the Docker Engine API answers, field for field (version 1.44).

The functions are pure: they take the public record of the engine (JSON, as the node's events carry it) and give JSON.
A field that the engine does not know holds the API's empty value; none is invented.
"""
