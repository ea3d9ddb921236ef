-- What is on record of an archive may turn out useless: its file is lost, or was never made. While the partition is in
-- the table it can be archived again; the newest record counts.

ALTER TABLE archives DROP CONSTRAINT archives_pkey, ADD PRIMARY KEY (first, position);
