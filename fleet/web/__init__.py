"""The web page and the HTTP interface of the fleet manager."""
