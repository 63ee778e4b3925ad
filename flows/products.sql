-- The table that flows/product_images.py makes as products.sqlite where there is no such file: all
-- of it or nothing, also where somebody else does the same at that moment.
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS products (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT,
    -- Written by the flow, row by row:
    picture TEXT,        -- where the file is
    sha256 TEXT,         -- what it is
    prediction_id TEXT,  -- what it was paid as
    error TEXT           -- why there is none; such a row is left alone until this is NULL again
);
INSERT INTO products (name, description)
SELECT thing.column1, kind.column1
FROM (VALUES ('mug'), ('teapot'), ('lamp'), ('chair'), ('rucksack'), ('kite')) AS thing,
    (VALUES ('blue'), ('striped'), ('for children'), ('from 1962'), ('of recycled paper')) AS kind
WHERE NOT EXISTS (SELECT 1 FROM products);
COMMIT;
