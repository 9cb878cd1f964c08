"""Who gets which slot of which worker, decided per request in the front process."""
