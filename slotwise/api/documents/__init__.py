"""The OpenAPI 3.1 document of what is served, API by API. Pure; tests hold it against routes, bounds and answers."""
