"""`make e2e-celery`: what is promised on one machine, kept on a fleet of Celery workers whose parts die."""
