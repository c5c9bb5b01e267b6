"""Results drawn with matplotlib, which nothing else imports."""
