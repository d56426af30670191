-- One database for each service that keeps rows. PostgreSQL's image runs this once, on an empty volume.
CREATE DATABASE dataset;
CREATE DATABASE trainer;
CREATE DATABASE registry;
CREATE DATABASE abtest;
