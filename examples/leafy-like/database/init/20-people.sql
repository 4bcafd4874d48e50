INSERT INTO gardener (name, password) VALUES ('gardener', crypt('grow slowly', gen_salt('bf', 8)));

INSERT INTO note (gardener_id, text)
SELECT id, 'The first tomatoes are red.' FROM gardener WHERE name = 'gardener';
