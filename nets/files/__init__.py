"""What weight files hold, read as data: nothing in them is executed."""
