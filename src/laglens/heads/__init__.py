"""What kind of head each one is: how concentrated, how far it looks, how local."""
