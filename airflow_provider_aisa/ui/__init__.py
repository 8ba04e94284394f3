"""The gallery: pages in Airflow's own web server that show the images of its runs."""
