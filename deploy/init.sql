-- The schema, for TimescaleDB and for plain PostgreSQL alike. Safe to apply again at any time.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

-- CREATE EXTENSION without shared_preload_libraries drops the connection, hence the second question.
DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb')
     AND current_setting('shared_preload_libraries') LIKE '%timescaledb%' THEN
    CREATE EXTENSION IF NOT EXISTS timescaledb;
  END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS bybit;

-- For people at a prompt: \d lists the tables, and orderbook means bybit.orderbook. Somebody's own choice is kept.
DO $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
                 WHERE datname = current_database() AND setrole = 0 AND setconfig::text LIKE '%search_path=%') THEN
    EXECUTE format('ALTER DATABASE %I SET search_path = "$user", public, bybit', current_database());
  END IF;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE WARNING 'search_path stays as it is: %', SQLERRM;
END $$;

-- One row a price level of an order-book message; size 0 is a removed level. Times are milliseconds.
CREATE TABLE IF NOT EXISTS bybit.orderbook (
  topic        text    NOT NULL,
  type         text    NOT NULL,  -- snapshot or delta
  ts_message   bigint  NOT NULL,  -- ts: when the exchange made the message
  channel      text    NOT NULL,
  symbol_name  text    NOT NULL,
  update_id    bigint  NOT NULL,  -- u
  sequence_id  bigint  NOT NULL,  -- seq
  side         text    NOT NULL,  -- bid or ask
  price        numeric NOT NULL,
  size         numeric NOT NULL,
  ts_orderbook bigint  NOT NULL,  -- cts: the matching engine's time
  matching_key text    NOT NULL
);

-- One row an update that is stored. Its key is what makes two messages copies of one update, so that a
-- message that comes twice, by whichever way, is stored once. Written in one transaction with the levels.
CREATE TABLE IF NOT EXISTS bybit.orderbook_update (
  ts_orderbook bigint NOT NULL,
  update_id    bigint NOT NULL,
  sequence_id  bigint NOT NULL,
  channel      text   NOT NULL,
  topic        text   NOT NULL,
  type         text   NOT NULL,
  published_at bigint,  -- milliseconds
  number       bigint,  -- rises in the order of publishing
  PRIMARY KEY (ts_orderbook, update_id, sequence_id, channel, topic, type)
);
-- A table of a version before has none of these.
ALTER TABLE bybit.orderbook_update
  ADD COLUMN IF NOT EXISTS published_at bigint,
  ADD COLUMN IF NOT EXISTS number       bigint,
  ADD COLUMN IF NOT EXISTS as_sent      text;  -- what rows do not say: they have no order

DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'timescaledb') THEN
    PERFORM create_hypertable('bybit.orderbook', 'ts_orderbook', chunk_time_interval => 86400000::bigint,
                              if_not_exists => true, migrate_data => true);
  ELSE
    CREATE INDEX IF NOT EXISTS orderbook_ts_orderbook_idx ON bybit.orderbook (ts_orderbook DESC);
  END IF;
END $$;

-- One row per second and instrument: the best prices of the book of the signal engine. A query over price levels could
-- not give them: a book at a moment is every level since its last snapshot.
CREATE TABLE IF NOT EXISTS bybit.quote (
  quoted_at    bigint NOT NULL,  -- a whole second, in milliseconds
  channel      text   NOT NULL,
  symbol_name  text   NOT NULL,
  matching_key text,
  state        text   NOT NULL,
  bid          numeric,
  bid_size     numeric,
  ask          numeric,
  ask_size     numeric,
  received_at  bigint NOT NULL,  -- milliseconds
  number       bigint,
  PRIMARY KEY (channel, symbol_name, quoted_at)
);

DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'timescaledb') THEN
    PERFORM create_hypertable('bybit.quote', 'quoted_at', chunk_time_interval => 86400000::bigint,
                              if_not_exists => true, migrate_data => true);
  ELSE
    CREATE INDEX IF NOT EXISTS quote_quoted_at_idx ON bybit.quote (quoted_at DESC);
  END IF;
END $$;

-- Two rows per execution, one per leg. flux is signed cash: minus for a buy.
CREATE TABLE IF NOT EXISTS bybit."order" (
  channel      text    NOT NULL,
  symbol_name  text    NOT NULL,
  price        numeric NOT NULL,
  size         numeric NOT NULL,
  type         text    NOT NULL CHECK (type IN ('buy', 'sell')),
  flux         numeric NOT NULL,
  ts_orderbook bigint  NOT NULL,  -- cts of the book that this leg was traded on
  order_id     text,              -- empty where the sender gave none
  action       text    NOT NULL,  -- Open Spread, Close Spread or Unwind
  spread_id    text,              -- empty for a close of whatever is oldest
  placed_at    bigint  NOT NULL,  -- milliseconds
  execution_id bigint  NOT NULL,  -- rises in the order of execution
  request_key  text,              -- identifies a request that has no order_id
  PRIMARY KEY (execution_id, type)
);
CREATE UNIQUE INDEX IF NOT EXISTS order_order_id_idx ON bybit."order" (order_id, type);
-- What real orders add. An Unwind has bought and sold one instrument: its two rows have the same size and no order_id.
ALTER TABLE bybit."order"
  ADD COLUMN IF NOT EXISTS fee         numeric,  -- quote coin; empty where none was charged or it is not known
  ADD COLUMN IF NOT EXISTS trade_id    text,     -- of a real order: its fills and leftovers have the same
  ADD COLUMN IF NOT EXISTS asked_price numeric,  -- of a real order: the order's price, where price is that of the fills
  ADD COLUMN IF NOT EXISTS asked_size  numeric;
-- The trail of the order's latency, in milliseconds; empty where the sender gave none.
ALTER TABLE bybit."order"
  ADD COLUMN IF NOT EXISTS published_at bigint,  -- the last message of the leg's book: published by the collector ...
  ADD COLUMN IF NOT EXISTS received_at  bigint,  -- ... and taken by the signal engine
  ADD COLUMN IF NOT EXISTS decided_at   bigint;  -- the order was made

-- Orders that were answered NOT ACK: asked again, they get the same answer.
CREATE TABLE IF NOT EXISTS bybit.refused_order (
  execution_id bigint PRIMARY KEY,  -- from the same sequence as the executions
  order_id     text,
  request_key  text,
  info         text   NOT NULL,
  answered_at  bigint NOT NULL      -- milliseconds
);
ALTER TABLE bybit.refused_order ADD COLUMN IF NOT EXISTS trade_id text;  -- of a real order whose legs were sent

-- Executions of real orders as the exchange reported them, in one transaction with what they add up to.
CREATE TABLE IF NOT EXISTS bybit.fill (
  link_id     text    NOT NULL,  -- our id of the exchange's order
  exec_id     text    NOT NULL,  -- the exchange's id
  trade_id    text    NOT NULL,
  channel     text    NOT NULL,
  symbol_name text    NOT NULL,
  side        text    NOT NULL CHECK (side IN ('buy', 'sell')),
  price       numeric NOT NULL,
  size        numeric NOT NULL,  -- before fees
  value       numeric NOT NULL,  -- price * size
  fee         numeric NOT NULL,  -- in fee_coin, above zero paid
  fee_coin    text    NOT NULL,
  exec_type   text    NOT NULL,
  ts          bigint  NOT NULL,  -- the exchange's time, milliseconds
  PRIMARY KEY (link_id, exec_id)
);

-- What real trades have left of one instrument. Until it is resolved it keeps spreads of its pair from being opened.
CREATE TABLE IF NOT EXISTS bybit.leftover (
  trade_id      text    NOT NULL,
  number        integer NOT NULL,  -- tells those of a trade apart
  channel       text    NOT NULL,
  symbol_name   text    NOT NULL,
  size          numeric NOT NULL,  -- above zero bought, below zero sold
  flux          numeric NOT NULL,  -- signed cash: minus for bought
  fee           numeric,
  reason        text    NOT NULL,
  since         bigint  NOT NULL,  -- milliseconds
  long_channel  text,              -- the pair; empty where it blocks every pair of the instrument
  long_symbol   text,
  short_channel text,
  short_symbol  text,
  resolved_at   bigint,            -- milliseconds; empty while it is open
  resolution    text CHECK (resolution IN ('dust', 'traded away', 'accepted')),
  PRIMARY KEY (trade_id, number)
);

-- One row: which history the order tables hold, so that the trading engine's journal is never played into
-- another one.
CREATE TABLE IF NOT EXISTS bybit.history (
  id      uuid    NOT NULL DEFAULT gen_random_uuid(),
  engine  uuid,  -- the trading engine that accounts for it; another one takes over by putting itself here
  one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row)
);
-- The kind of orders that the history was made with: mode is simulated or real, environment Bybit's demo, testnet
-- or mainnet. Both are empty until an engine starts, and in a history that is older than these columns.
ALTER TABLE bybit.history
  ADD COLUMN IF NOT EXISTS mode        text CHECK (mode IN ('simulated', 'real')),
  ADD COLUMN IF NOT EXISTS environment text,
  ADD COLUMN IF NOT EXISTS account     text;  -- of real orders: the exchange's id of who trades
-- The lease of the trading engine that works on it; see docs/scaling.md.
ALTER TABLE bybit.history
  ADD COLUMN IF NOT EXISTS journal      text,         -- where that engine keeps what is not stored yet
  ADD COLUMN IF NOT EXISTS place        text,         -- that engine's host and process
  ADD COLUMN IF NOT EXISTS renewals     bigint NOT NULL DEFAULT 0,  -- of the lease, five in LEASE_MS
  ADD COLUMN IF NOT EXISTS standby_seen timestamptz;  -- when an engine that stands by looked at the lease last
INSERT INTO bybit.history DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Emptying a table empties what belongs to it: the system then starts from nothing.
CREATE OR REPLACE FUNCTION bybit.forget_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE bybit.refused_order, bybit.fill, bybit.leftover,
    bybit.instrument_total, bybit.pair_total, bybit.spread_total;
  UPDATE bybit.history SET id = gen_random_uuid(), mode = NULL, environment = NULL, account = NULL;
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS forget_orders ON bybit."order";
CREATE TRIGGER forget_orders AFTER TRUNCATE ON bybit."order"
  FOR EACH STATEMENT EXECUTE FUNCTION bybit.forget_orders();

CREATE OR REPLACE FUNCTION bybit.forget_updates() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE bybit.orderbook_update, bybit.archived_day, bybit.quote;
  PERFORM bybit.forget_gaps();
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS forget_updates ON bybit.orderbook;
CREATE TRIGGER forget_updates AFTER TRUNCATE ON bybit.orderbook
  FOR EACH STATEMENT EXECUTE FUNCTION bybit.forget_updates();

-- The trading engine's start -------------------------------------------------------------------------------------------
-- It begins with the books of the last checkpoint and reads what came after it. Orders that it does not remember are
-- looked up, by what the indexes are for.
CREATE TABLE IF NOT EXISTS bybit.checkpoint (
  one_row      boolean PRIMARY KEY DEFAULT true CHECK (one_row),
  execution_id bigint NOT NULL,
  books        text   NOT NULL,
  digest       text   NOT NULL,
  made_at      bigint NOT NULL  -- milliseconds
);

CREATE INDEX IF NOT EXISTS order_request_key_idx ON bybit."order" (request_key) WHERE request_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS order_ts_orderbook_idx ON bybit."order" USING brin (ts_orderbook) WITH (pages_per_range = 32);
CREATE INDEX IF NOT EXISTS refused_order_order_id_idx ON bybit.refused_order (order_id);
CREATE INDEX IF NOT EXISTS refused_order_request_key_idx ON bybit.refused_order (request_key)
  WHERE request_key IS NOT NULL;

-- Whoever changes or removes executions makes the engine add them up anew.
CREATE OR REPLACE FUNCTION bybit.forget_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM bybit.checkpoint;
  TRUNCATE bybit.latency_check, bybit.latency_count;
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS forget_checkpoint ON bybit."order";
CREATE TRIGGER forget_checkpoint AFTER UPDATE OR DELETE OR TRUNCATE ON bybit."order"
  FOR EACH STATEMENT EXECUTE FUNCTION bybit.forget_checkpoint();

COMMENT ON TABLE bybit.checkpoint IS 'One row: the books of the trading engine after an execution, for its next start. Written by it, checked against the rows of bybit."order"; may be deleted at any time, the next start then reads all executions.';
COMMENT ON COLUMN bybit.checkpoint.one_row IS 'Always true: keeps the table at one row';
COMMENT ON COLUMN bybit.checkpoint.execution_id IS 'The last execution or refusal that the books include';
COMMENT ON COLUMN bybit.checkpoint.books IS 'Exposure and position of each instrument, PnL and open spreads (JSON, numbers as text)';
COMMENT ON COLUMN bybit.checkpoint.digest IS 'BLAKE2b of books';
COMMENT ON COLUMN bybit.checkpoint.made_at IS 'When it was made, by the trading engine''s clock, ms since 1970';

-- Retention ------------------------------------------------------------------------------------------------------------
-- Whole UTC days of order books are removed, oldest first. Orders never are.

-- Like bybit.orderbook in chunks of a day, for a chunk is dropped at once. COPY into it costs the same.
DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'timescaledb') THEN
    PERFORM create_hypertable('bybit.orderbook_update', 'ts_orderbook', chunk_time_interval => 86400000::bigint,
                              create_default_indexes => false, if_not_exists => true, migrate_data => true);
  END IF;
END $$;

-- Days of which every message is in a verified export: written by whoever made the export.
CREATE TABLE IF NOT EXISTS bybit.archived_day (
  day         bigint PRIMARY KEY CHECK (day % 86400000 = 0),
  messages    bigint NOT NULL,
  archived_at bigint NOT NULL
);

-- The tables that retention trims, in this order: with its levels gone a message must still be known as stored.
CREATE OR REPLACE FUNCTION bybit.trimmed_tables() RETURNS TABLE (name regclass, time_column text)
LANGUAGE sql STABLE AS $$
  SELECT to_regclass(name), time_column
  FROM (VALUES (1, 'bybit.orderbook', 'ts_orderbook'), (2, 'bybit.orderbook_update', 'ts_orderbook'),
               (3, 'bybit.quote', 'quoted_at'),
               (4, 'bybit.update_gap', 'ts_orderbook')) AS tables (position, name, time_column)
  WHERE to_regclass(name) IS NOT NULL ORDER BY position
$$;

CREATE OR REPLACE FUNCTION bybit.is_hypertable(which regclass) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
  found boolean := false;
BEGIN
  IF EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'timescaledb') THEN
    EXECUTE 'SELECT EXISTS (SELECT FROM timescaledb_information.hypertables
                            WHERE format(''%I.%I'', hypertable_schema, hypertable_name)::regclass = $1)'
      INTO found USING which;
  END IF;
  RETURN found;
END $$;

-- Called again until it returns 0: a portion is a transaction, and short. The lock is for several storage services.
CREATE OR REPLACE FUNCTION bybit.forget_before(
  before bigint, only_archived boolean DEFAULT false, most integer DEFAULT 20000
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  day_ms  CONSTANT bigint := 86400000;
  now_ms  CONSTANT bigint := extract(epoch FROM clock_timestamp()) * 1000;
  horizon bigint := least(before, now_ms - day_ms);
  oldest  bigint;
  until   bigint;
  which   record;
  part    bigint;
  removed bigint := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(5433, 1) THEN
    RETURN 0;
  END IF;
  horizon := horizon - horizon % day_ms;
  FOR which IN SELECT * FROM bybit.trimmed_tables() LOOP
    EXECUTE format('SELECT least($1, min(%I)) FROM %s', which.time_column, which.name) INTO oldest USING oldest;
  END LOOP;
  until := oldest - oldest % day_ms + day_ms;
  IF oldest IS NULL OR until > horizon OR only_archived AND NOT bybit.is_archived(until - day_ms) THEN
    RETURN 0;
  END IF;
  FOR which IN SELECT * FROM bybit.trimmed_tables() LOOP
    IF bybit.is_hypertable(which.name) THEN
      EXECUTE format('SELECT count(*) FROM drop_chunks(%L::regclass, older_than => $1)', which.name)
        INTO part USING until;
    ELSE
      EXECUTE format('DELETE FROM %1$s WHERE ctid = ANY (ARRAY(
                        SELECT ctid FROM %1$s WHERE %2$I < $1 ORDER BY %2$I LIMIT $2))', which.name, which.time_column)
        USING until, most;
      GET DIAGNOSTICS part = ROW_COUNT;
    END IF;
    removed := removed + part;
    EXIT WHEN removed >= most;
  END LOOP;
  RETURN removed;
END $$;

-- A message that came after the export makes them more: the day has to be exported again. Fewer are what is left of a
-- day that is being removed.
CREATE OR REPLACE FUNCTION bybit.is_archived(which_day bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT coalesce((SELECT messages FROM bybit.archived_day WHERE day = which_day), 0)
       >= (SELECT count(*) FROM bybit.orderbook_update WHERE ts_orderbook >= which_day AND ts_orderbook < which_day + 86400000)
$$;

-- Only the Community edition compresses: chunks that ended more than a day ago, by a background job of its own.
CREATE OR REPLACE FUNCTION bybit.now_ms() RETURNS bigint LANGUAGE sql STABLE AS
  'SELECT (extract(epoch FROM now()) * 1000)::bigint';
DO $$
DECLARE
  which record;
BEGIN
  IF current_setting('timescaledb.license', true) IS DISTINCT FROM 'timescale' THEN
    RETURN;
  END IF;
  FOR which IN
    SELECT name, segment_by, order_by
    FROM (VALUES ('orderbook', 'channel, symbol_name', 'ts_orderbook, update_id, side, price'),
                 ('orderbook_update', 'channel, topic', 'ts_orderbook, update_id, sequence_id, type'),
                 ('quote', 'channel, symbol_name', 'quoted_at'))
         AS t (name, segment_by, order_by)
    JOIN timescaledb_information.hypertables ON hypertable_schema = 'bybit' AND hypertable_name = name
    WHERE NOT compression_enabled
  LOOP
    EXECUTE format('ALTER TABLE bybit.%I SET (timescaledb.compress, timescaledb.compress_segmentby = %L, '
                   'timescaledb.compress_orderby = %L)', which.name, which.segment_by, which.order_by);
    PERFORM set_integer_now_func(format('bybit.%I', which.name)::regclass, 'bybit.now_ms', replace_if_exists => true);
    PERFORM add_compression_policy(format('bybit.%I', which.name)::regclass, compress_after => 86400000::bigint,
                                   if_not_exists => true);
  END LOOP;
EXCEPTION WHEN feature_not_supported THEN
  RAISE WARNING 'order books stay as they are: %', SQLERRM;
END $$;

COMMENT ON TABLE bybit.archived_day IS 'UTC days of which every order-book message is in a verified export. With ARCHIVE_PATH retention removes no other.';
COMMENT ON COLUMN bybit.archived_day.day IS 'Beginning of the day, ms since 1970';
COMMENT ON COLUMN bybit.archived_day.messages IS 'Messages in the export, by ts_orderbook: the rows of bybit.orderbook_update of that day';
COMMENT ON COLUMN bybit.archived_day.archived_at IS 'When the export was verified, ms since 1970';
COMMENT ON FUNCTION bybit.forget_before(bigint, boolean, integer) IS 'Removes a portion of the oldest whole UTC day of order books before the given time (ms since 1970), never of the last 24 hours: chunks, or at most so many rows. Returns how many, 0 when nothing is left to remove; with only_archived a day that is not in bybit.archived_day is not removed.';

-- Totals -----------------------------------------------------------------------------------------------------------------
-- What the executions add up to, kept by a trigger in the transaction that stores them: worked out from a million
-- executions it would take seconds. bybit.recount_orders() works it out anew.

CREATE TABLE IF NOT EXISTS bybit.instrument_total (
  channel      text    NOT NULL,
  symbol_name  text    NOT NULL,
  size         numeric NOT NULL,  -- bought less sold
  exposure     numeric NOT NULL,  -- cash paid less received
  executions   bigint  NOT NULL,
  unwinds      bigint  NOT NULL,
  unwound_cash numeric NOT NULL,
  unwound_fee  numeric NOT NULL,
  PRIMARY KEY (channel, symbol_name)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS bybit.pair_total (
  long_channel        text    COLLATE "C" NOT NULL,
  long_symbol         text    COLLATE "C" NOT NULL,
  short_channel       text    COLLATE "C" NOT NULL,
  short_symbol        text    COLLATE "C" NOT NULL,
  cash                numeric NOT NULL,
  fee                 numeric NOT NULL,
  size_without_spread numeric NOT NULL,  -- of closes beyond what was open
  cash_without_spread numeric NOT NULL,
  PRIMARY KEY (long_channel, long_symbol, short_channel, short_symbol)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS bybit.spread_total (
  execution_id  bigint  PRIMARY KEY,  -- of the opening
  spread_id     text,
  long_channel  text    COLLATE "C" NOT NULL,
  long_symbol   text    COLLATE "C" NOT NULL,
  short_channel text    COLLATE "C" NOT NULL,
  short_symbol  text    COLLATE "C" NOT NULL,
  opened_at     bigint  NOT NULL,
  last_close    bigint,               -- placed_at of the last close that took from it
  opened        numeric NOT NULL,
  closed        numeric NOT NULL,
  entry_spread  numeric NOT NULL,
  cash          numeric NOT NULL,
  fee           numeric
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS spread_total_spread_id_idx ON bybit.spread_total (spread_id COLLATE "C", execution_id);
CREATE INDEX IF NOT EXISTS spread_total_open_idx ON bybit.spread_total
  (long_channel, long_symbol, short_channel, short_symbol, execution_id) WHERE opened - closed > 0;

-- Few spreads are open: without these the planner takes a third of them for open, and reads all.
CREATE STATISTICS IF NOT EXISTS bybit.spread_total_left ON (opened - closed) FROM bybit.spread_total;

-- Both legs of these executions, in the columns that totals are made of. Looked up one by one (OFFSET 0): without
-- statistics the planner would compare each id with each order.
CREATE OR REPLACE FUNCTION bybit.trades(ids bigint[]) RETURNS TABLE (
  execution_id bigint, action text, spread_id text, placed_at bigint, size numeric, cash numeric, fee numeric, fees numeric,
  price numeric, long_channel text, long_symbol text, short_channel text, short_symbol text
) LANGUAGE sql STABLE ROWS 100 AS $$
  SELECT buy.execution_id, buy.action, buy.spread_id, buy.placed_at, buy.size, buy.flux + sell.flux, buy.fee + sell.fee,
         coalesce(buy.fee, 0) + coalesce(sell.fee, 0), sell.price - buy.price,
         CASE buy.action WHEN 'Open Spread' THEN buy.channel ELSE sell.channel END,
         CASE buy.action WHEN 'Open Spread' THEN buy.symbol_name ELSE sell.symbol_name END,
         CASE buy.action WHEN 'Open Spread' THEN sell.channel ELSE buy.channel END,
         CASE buy.action WHEN 'Open Spread' THEN sell.symbol_name ELSE buy.symbol_name END
  FROM unnest(ids) AS id
  CROSS JOIN LATERAL (SELECT * FROM bybit."order" WHERE execution_id = id AND type = 'buy' OFFSET 0) AS buy
  CROSS JOIN LATERAL (SELECT * FROM bybit."order" WHERE execution_id = id AND type = 'sell' OFFSET 0) AS sell
  WHERE buy.action <> 'Unwind'
$$;

-- The execution that opened a spread, before a close of it. An id may be used again once its spread is closed. The order
-- is that of the index by id: without statistics the planner would look through the executions instead.
CREATE OR REPLACE FUNCTION bybit.opening_of(id text, before bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT execution_id FROM bybit.spread_total WHERE spread_id COLLATE "C" = id AND execution_id < before
  ORDER BY spread_id COLLATE "C" DESC, execution_id DESC LIMIT 1
$$;

CREATE OR REPLACE FUNCTION bybit.count_without_spread(pair text[], more_size numeric, more_cash numeric) RETURNS void
LANGUAGE sql AS $$
  UPDATE bybit.pair_total AS p
  SET size_without_spread = p.size_without_spread + more_size, cash_without_spread = p.cash_without_spread + more_cash
  WHERE (p.long_channel, p.long_symbol, p.short_channel, p.short_symbol) = (pair[1], pair[2], pair[3], pair[4])
    AND (more_size <> 0 OR more_cash <> 0)
$$;

-- Closes of a pair one after the other. Without a spread_id they take from its oldest open spreads, as in the trading
-- engine. A pair is updated once: the versions of a row that one transaction makes are all looked through by the next.
CREATE OR REPLACE FUNCTION bybit.count_closes(ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  trade record;
  lot   record;
  part  numeric;
  rest  numeric;
  pair  text[];
  size_without_spread numeric := 0;
  cash_without_spread numeric := 0;
BEGIN
  FOR trade IN SELECT *, ARRAY[long_channel, long_symbol, short_channel, short_symbol] AS legs
               FROM bybit.trades(ids) WHERE action <> 'Open Spread' ORDER BY legs, execution_id LOOP
    IF trade.legs IS DISTINCT FROM pair THEN
      PERFORM bybit.count_without_spread(pair, size_without_spread, cash_without_spread);
      pair := trade.legs;
      size_without_spread := 0;
      cash_without_spread := 0;
    END IF;
    rest := trade.size;
    IF trade.spread_id IS NOT NULL THEN
      UPDATE bybit.spread_total AS t
      SET closed = t.closed + trade.size, cash = t.cash + trade.cash, last_close = trade.placed_at,
          fee = CASE WHEN trade.fee IS NULL THEN t.fee ELSE coalesce(t.fee, 0) + trade.fee END
      WHERE t.execution_id = bybit.opening_of(trade.spread_id, trade.execution_id);
      CONTINUE WHEN FOUND;
    ELSE
      FOR lot IN SELECT t.execution_id, t.opened - t.closed AS remaining FROM bybit.spread_total AS t
                 WHERE (t.long_channel, t.long_symbol, t.short_channel, t.short_symbol)
                     = (trade.long_channel, trade.long_symbol, trade.short_channel, trade.short_symbol)
                   AND t.opened - t.closed > 0 AND t.execution_id < trade.execution_id
                 ORDER BY t.long_channel, t.long_symbol, t.short_channel, t.short_symbol, t.execution_id LOOP
        part := least(rest, lot.remaining);
        UPDATE bybit.spread_total AS t
        SET closed = t.closed + part, cash = t.cash + part * trade.price, last_close = trade.placed_at
        WHERE t.execution_id = lot.execution_id;
        rest := rest - part;
        EXIT WHEN rest = 0;
      END LOOP;
    END IF;
    -- The price of a real order is rounded: what its part times its price leaves of the cash is counted here.
    size_without_spread := size_without_spread + rest;
    cash_without_spread := cash_without_spread + trade.cash - (trade.size - rest) * trade.price;
  END LOOP;
  PERFORM bybit.count_without_spread(pair, size_without_spread, cash_without_spread);
END $$;

-- The same for closes that all name their spread, as those of the signal engine do: in one statement.
CREATE OR REPLACE FUNCTION bybit.count_named_closes(ids bigint[]) RETURNS void LANGUAGE sql AS $$
  WITH trade AS MATERIALIZED (
    SELECT *, bybit.opening_of(spread_id, execution_id) AS opening
    FROM bybit.trades(ids) AS trade WHERE action <> 'Open Spread'
  ), taken AS (
    UPDATE bybit.spread_total AS t
    SET closed = t.closed + trade.size, cash = t.cash + trade.cash, last_close = trade.placed_at,
        fee = CASE WHEN trade.fee IS NULL THEN t.fee ELSE coalesce(t.fee, 0) + trade.fee END
    FROM (SELECT opening, sum(size) AS size, sum(cash) AS cash, sum(fee) AS fee, max(placed_at) AS placed_at
          FROM trade WHERE opening IS NOT NULL GROUP BY opening) AS trade
    WHERE t.execution_id = trade.opening
  )
  UPDATE bybit.pair_total AS p
  SET size_without_spread = p.size_without_spread + trade.size, cash_without_spread = p.cash_without_spread + trade.cash
  FROM (SELECT long_channel, long_symbol, short_channel, short_symbol, sum(size) AS size, sum(cash) AS cash
        FROM trade WHERE opening IS NULL GROUP BY 1, 2, 3, 4) AS trade
  WHERE (p.long_channel, p.long_symbol, p.short_channel, p.short_symbol)
      = (trade.long_channel, trade.long_symbol, trade.short_channel, trade.short_symbol)
$$;

-- Executions of which a leg is missing are left out; they count when it comes. The plans are made once a session, for
-- however many executions come then: look-ups by index are right for a few, and good enough for all.
CREATE OR REPLACE FUNCTION bybit.count_executions(ids bigint[]) RETURNS void LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
  INSERT INTO bybit.instrument_total AS t
  SELECT leg.channel, leg.symbol_name, sum(CASE leg.type WHEN 'buy' THEN leg.size ELSE -leg.size END), -sum(leg.flux),
         count(*) FILTER (WHERE leg.action <> 'Unwind' OR leg.type = 'buy'),
         count(*) FILTER (WHERE leg.action = 'Unwind' AND leg.type = 'buy'),
         coalesce(sum(leg.flux) FILTER (WHERE leg.action = 'Unwind'), 0),
         coalesce(sum(leg.fee) FILTER (WHERE leg.action = 'Unwind'), 0)
  FROM unnest(ids) AS id
  CROSS JOIN LATERAL (SELECT *, count(*) OVER () AS legs FROM bybit."order" WHERE execution_id = id) AS leg
  WHERE leg.legs = 2
  GROUP BY leg.channel, leg.symbol_name
  ON CONFLICT (channel, symbol_name) DO UPDATE
  SET size = t.size + excluded.size, exposure = t.exposure + excluded.exposure,
      executions = t.executions + excluded.executions, unwinds = t.unwinds + excluded.unwinds,
      unwound_cash = t.unwound_cash + excluded.unwound_cash, unwound_fee = t.unwound_fee + excluded.unwound_fee;
  INSERT INTO bybit.spread_total
  SELECT execution_id, spread_id, long_channel, long_symbol, short_channel, short_symbol, placed_at, NULL, size, 0, price,
         cash, fee
  FROM bybit.trades(ids) WHERE action = 'Open Spread';
  INSERT INTO bybit.pair_total AS p
  SELECT long_channel, long_symbol, short_channel, short_symbol, sum(cash), sum(fees), 0, 0
  FROM bybit.trades(ids) GROUP BY 1, 2, 3, 4
  ON CONFLICT (long_channel, long_symbol, short_channel, short_symbol)
  DO UPDATE SET cash = p.cash + excluded.cash, fee = p.fee + excluded.fee;
  IF EXISTS (SELECT FROM bybit.trades(ids) WHERE action <> 'Open Spread' AND spread_id IS NULL) THEN
    PERFORM bybit.count_closes(ids);
  ELSE
    PERFORM bybit.count_named_closes(ids);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION bybit.count_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM bybit.count_executions(ARRAY(SELECT DISTINCT execution_id FROM added));
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION bybit.recount_orders() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE bybit.instrument_total, bybit.pair_total, bybit.spread_total;
  PERFORM bybit.count_executions(ARRAY(SELECT DISTINCT execution_id FROM bybit."order"));
END $$;

-- Orders that somebody changes or removes by hand are counted anew, all of them.
CREATE OR REPLACE FUNCTION bybit.recount_changed_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM changed) THEN
    PERFORM bybit.recount_orders();
  END IF;
  RETURN NULL;
END $$;

-- In one transaction, so that a database with orders of a version before counts each once.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'count_orders' AND tgrelid = 'bybit."order"'::regclass) THEN
    CREATE TRIGGER count_orders AFTER INSERT ON bybit."order"
      REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION bybit.count_orders();
    CREATE TRIGGER recount_updated_orders AFTER UPDATE ON bybit."order"
      REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION bybit.recount_changed_orders();
    CREATE TRIGGER recount_deleted_orders AFTER DELETE ON bybit."order"
      REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION bybit.recount_changed_orders();
    PERFORM bybit.recount_orders();
  END IF;
END $$;

-- What was looked at already ---------------------------------------------------------------------------------------------
-- Gaps of the update id and times of orders, as far as they have been worked out: of millions of rows it takes seconds.
-- The views add what came since.

-- Order books are looked at up to this time of the matching engine.
CREATE TABLE IF NOT EXISTS bybit.gap_check (
  one_row      boolean PRIMARY KEY DEFAULT true CHECK (one_row),
  ts_orderbook bigint NOT NULL
);

-- The last message of each stream before that.
CREATE TABLE IF NOT EXISTS bybit.checked_stream (
  channel      text   NOT NULL,
  topic        text   NOT NULL,
  ts_orderbook bigint NOT NULL,
  number       bigint,
  update_id    bigint NOT NULL,
  PRIMARY KEY (channel, topic)
);

CREATE TABLE IF NOT EXISTS bybit.update_gap (
  channel      text   NOT NULL,
  topic        text   NOT NULL,
  ts_orderbook bigint NOT NULL,
  published_at bigint,
  number       bigint,
  previous_id  bigint NOT NULL,
  update_id    bigint NOT NULL,
  missing      bigint NOT NULL,
  after_ms     bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS update_gap_ts_orderbook_idx ON bybit.update_gap (ts_orderbook);

-- Deltas between two times whose update id is not the one after that of the message before it.
CREATE OR REPLACE FUNCTION bybit.gaps_between(begin_ts bigint, end_ts bigint) RETURNS SETOF bybit.update_gap
LANGUAGE sql STABLE AS $$
  SELECT channel, topic, ts_orderbook, published_at, number, previous_id, update_id, update_id - previous_id - 1,
         ts_orderbook - previous_ts
  FROM (SELECT *, lag(update_id) OVER message AS previous_id, lag(ts_orderbook) OVER message AS previous_ts
        FROM (SELECT true AS is_new, channel, topic, type, ts_orderbook, published_at, number, update_id
              FROM bybit.orderbook_update WHERE ts_orderbook >= begin_ts AND ts_orderbook < end_ts
              UNION ALL
              SELECT false, channel, topic, 'snapshot', ts_orderbook, NULL, number, update_id
              FROM bybit.checked_stream) AS message
        WINDOW message AS (PARTITION BY channel COLLATE "C", topic COLLATE "C"
                           ORDER BY is_new, number NULLS FIRST, ts_orderbook, update_id)) AS message
  WHERE type = 'delta' AND update_id > previous_id + 1
$$;

-- Called again until it returns false: a portion is ten minutes of messages, and a transaction. Messages of the last minutes
-- wait: of those more may come.
CREATE OR REPLACE FUNCTION bybit.check_gaps(wait_ms bigint DEFAULT 300000, portion_ms bigint DEFAULT 600000)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  newest bigint;
  begin_ts bigint;
  end_ts bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock(5433, 2) THEN
    RETURN false;
  END IF;
  SELECT max(ts_orderbook) INTO newest FROM bybit.orderbook_update;
  SELECT ts_orderbook INTO begin_ts FROM bybit.gap_check;
  -- A time without messages is passed over.
  SELECT least(min(ts_orderbook) + portion_ms, newest - wait_ms) INTO end_ts
  FROM bybit.orderbook_update WHERE ts_orderbook >= coalesce(begin_ts, 0);
  IF end_ts IS NULL OR end_ts <= coalesce(begin_ts, 0) THEN
    RETURN false;
  END IF;
  begin_ts := coalesce(begin_ts, 0);
  -- Not between two messages of a stream that were published in the other order.
  WHILE EXISTS (SELECT FROM bybit.orderbook_update WHERE ts_orderbook >= begin_ts AND ts_orderbook < end_ts + wait_ms
                GROUP BY channel, topic
                HAVING max(number) FILTER (WHERE ts_orderbook < end_ts) > min(number) FILTER (WHERE ts_orderbook >= end_ts)) LOOP
    end_ts := end_ts + 60000;
    IF end_ts > newest - wait_ms THEN
      RETURN false;
    END IF;
  END LOOP;
  INSERT INTO bybit.update_gap SELECT * FROM bybit.gaps_between(begin_ts, end_ts);
  INSERT INTO bybit.checked_stream AS s
  SELECT DISTINCT ON (channel COLLATE "C", topic COLLATE "C") channel, topic, ts_orderbook, number, update_id
  FROM bybit.orderbook_update WHERE ts_orderbook >= begin_ts AND ts_orderbook < end_ts
  ORDER BY channel COLLATE "C", topic COLLATE "C", number DESC NULLS LAST, ts_orderbook DESC, update_id DESC
  ON CONFLICT (channel, topic) DO UPDATE
  SET ts_orderbook = excluded.ts_orderbook, number = excluded.number, update_id = excluded.update_id;
  INSERT INTO bybit.gap_check (ts_orderbook) VALUES (end_ts)
  ON CONFLICT (one_row) DO UPDATE SET ts_orderbook = excluded.ts_orderbook;
  RETURN true;
END $$;

CREATE OR REPLACE FUNCTION bybit.forget_gaps() RETURNS void LANGUAGE sql AS
  'TRUNCATE bybit.gap_check, bybit.checked_stream, bybit.update_gap';

-- How many executions took how long, by hour and step, up to an execution. Whole milliseconds: percentiles stay exact.
CREATE TABLE IF NOT EXISTS bybit.latency_check (
  one_row      boolean PRIMARY KEY DEFAULT true CHECK (one_row),
  execution_id bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS bybit.latency_count (
  hour       bigint NOT NULL,
  step       text   NOT NULL,
  ms         bigint NOT NULL,
  executions bigint NOT NULL,
  PRIMARY KEY (hour, step, ms)
);

-- By the leg whose message came last: it gave reason to the order.
CREATE OR REPLACE FUNCTION bybit.latencies(after_id bigint, up_to_id bigint)
RETURNS TABLE (hour bigint, step text, ms bigint, executions bigint) LANGUAGE sql STABLE AS $$
  SELECT placed_at / 3600000 * 3600000, step.name, step.ms, count(*)
  FROM (SELECT placed_at, decided_at,
               CASE WHEN buy_is_newer THEN buy_ts_orderbook ELSE sell_ts_orderbook END AS cts,
               CASE WHEN buy_is_newer THEN buy_published_at ELSE sell_published_at END AS published_at,
               CASE WHEN buy_is_newer THEN buy_received_at ELSE sell_received_at END AS received_at
        FROM (SELECT buy.placed_at, buy.decided_at, buy.received_at > sell.received_at AS buy_is_newer,
                     buy.ts_orderbook AS buy_ts_orderbook, sell.ts_orderbook AS sell_ts_orderbook,
                     buy.published_at AS buy_published_at, sell.published_at AS sell_published_at,
                     buy.received_at AS buy_received_at, sell.received_at AS sell_received_at
              FROM bybit."order" AS buy JOIN bybit."order" AS sell USING (execution_id)
              WHERE buy.type = 'buy' AND sell.type = 'sell' AND buy.decided_at IS NOT NULL AND buy.action <> 'Unwind'
                AND buy.execution_id > after_id AND sell.execution_id > after_id
                AND buy.execution_id <= up_to_id AND sell.execution_id <= up_to_id) AS both_legs) AS execution
  CROSS JOIN LATERAL (VALUES ('all', 0), ('exchange', published_at - cts), ('broker', received_at - published_at),
                             ('decision', decided_at - received_at), ('execution', placed_at - decided_at),
                             ('total', placed_at - cts)) AS step (name, ms)
  WHERE step.ms IS NOT NULL
  GROUP BY 1, 2, 3
$$;

-- Called by the trading engine, which stores executions in the order of their ids.
CREATE OR REPLACE FUNCTION bybit.count_latencies(up_to_id bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  after_id bigint := coalesce((SELECT execution_id FROM bybit.latency_check), 0);
BEGIN
  IF up_to_id > after_id THEN
    INSERT INTO bybit.latency_count AS c SELECT * FROM bybit.latencies(after_id, up_to_id)
    ON CONFLICT (hour, step, ms) DO UPDATE SET executions = c.executions + excluded.executions;
    INSERT INTO bybit.latency_check (execution_id) VALUES (up_to_id)
    ON CONFLICT (one_row) DO UPDATE SET execution_id = excluded.execution_id;
  END IF;
END $$;

-- Of a database with executions of a version before.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM bybit.latency_check) THEN
    PERFORM bybit.count_latencies((SELECT max(execution_id) FROM bybit."order"));
  END IF;
END $$;

COMMENT ON TABLE bybit.gap_check IS 'One row: up to when bybit.update_gap has the gaps of stored order books. Kept by the data storage service; emptied with bybit.forget_gaps() all are worked out anew.';
COMMENT ON COLUMN bybit.gap_check.one_row IS 'Always true: keeps the table at one row';
COMMENT ON COLUMN bybit.gap_check.ts_orderbook IS 'Messages before this time of the matching engine have been looked at, ms since 1970';
COMMENT ON TABLE bybit.checked_stream IS 'The last message of each stream that has been looked at for bybit.update_gap';
COMMENT ON COLUMN bybit.checked_stream.channel IS 'Market category, as spot or linear';
COMMENT ON COLUMN bybit.checked_stream.topic IS 'Topic of the stream, as orderbook.50.BTCUSDT';
COMMENT ON COLUMN bybit.checked_stream.ts_orderbook IS 'Time of the matching engine (cts) of that message, ms since 1970';
COMMENT ON COLUMN bybit.checked_stream.number IS 'number of that message, see bybit.orderbook_update';
COMMENT ON COLUMN bybit.checked_stream.update_id IS 'Update id (u) of that message';
COMMENT ON TABLE bybit.update_gap IS 'Rows of bybit.gaps before the time in bybit.gap_check';
COMMENT ON FUNCTION bybit.gaps_between(bigint, bigint) IS 'Rows of bybit.gaps of messages from one time of the matching engine to before another, which follow on those in bybit.checked_stream';
COMMENT ON FUNCTION bybit.check_gaps(bigint, bigint) IS 'Looks at the next ten minutes of order books, except for the newest five minutes; returns whether there may be more. Called by the data storage service once a minute.';
COMMENT ON FUNCTION bybit.forget_gaps() IS 'Has all gaps worked out anew: needed where messages were stored whose time had been looked at already';
COMMENT ON TABLE bybit.latency_check IS 'One row: up to which execution bybit.latency_count has the times. Kept by the trading engine.';
COMMENT ON COLUMN bybit.latency_check.one_row IS 'Always true: keeps the table at one row';
COMMENT ON COLUMN bybit.latency_check.execution_id IS 'The last execution that is counted';
COMMENT ON TABLE bybit.latency_count IS 'How many executions took how long, step by step: what bybit.latency is made of';
COMMENT ON COLUMN bybit.latency_count.hour IS 'Beginning of the hour of placed_at, ms since 1970';
COMMENT ON COLUMN bybit.latency_count.step IS 'exchange, broker, decision, execution or total as in bybit.latency; all for executions that have the times';
COMMENT ON COLUMN bybit.latency_count.ms IS 'How long the step took, ms; 0 for all';
COMMENT ON COLUMN bybit.latency_count.executions IS 'How many took so long';

-- Views for people at a prompt. Times are milliseconds since 1970, as in the tables. Later versions may only append
-- columns: CREATE OR REPLACE VIEW takes nothing else.
CREATE OR REPLACE VIEW bybit.position AS
SELECT channel, symbol_name, coalesce(size, 0) AS size, coalesce(exposure, 0) AS exposure,
       coalesce(executions, 0) AS executions,
       coalesce(leftover_size, 0) AS leftover_size, coalesce(size, 0) + coalesce(leftover_size, 0) AS held_size
FROM bybit.instrument_total
FULL JOIN (SELECT channel, symbol_name, sum(size) AS leftover_size
           FROM bybit.leftover WHERE resolution IS DISTINCT FROM 'traded away'
           GROUP BY channel, symbol_name) AS left_over USING (channel, symbol_name);

CREATE OR REPLACE VIEW bybit.execution AS
SELECT execution_id, buy.action, buy.spread_id, buy.order_id,
       buy.channel AS buy_channel, buy.symbol_name AS buy_symbol, buy.price AS buy_price,
       sell.channel AS sell_channel, sell.symbol_name AS sell_symbol, sell.price AS sell_price,
       buy.size, buy.flux + sell.flux AS cash, buy.placed_at,
       buy.ts_orderbook AS buy_ts_orderbook, sell.ts_orderbook AS sell_ts_orderbook,
       buy.placed_at - buy.ts_orderbook AS buy_book_age_ms,
       buy.placed_at - sell.ts_orderbook AS sell_book_age_ms,
       buy.fee + sell.fee AS fee, buy.trade_id, buy.asked_size,
       buy.asked_price AS buy_asked_price, sell.asked_price AS sell_asked_price,
       buy.published_at AS buy_published_at, sell.published_at AS sell_published_at,
       buy.received_at AS buy_received_at, sell.received_at AS sell_received_at, buy.decided_at
FROM bybit."order" AS buy JOIN bybit."order" AS sell USING (execution_id)
WHERE buy.type = 'buy' AND sell.type = 'sell';

CREATE OR REPLACE VIEW bybit.latency AS
SELECT hour, (max(total) FILTER (WHERE step = 'all'))::bigint AS executions,
       min(ms) FILTER (WHERE step = 'exchange' AND up_to >= half) AS exchange_p50_ms,
       min(ms) FILTER (WHERE step = 'exchange' AND up_to >= most) AS exchange_p99_ms,
       min(ms) FILTER (WHERE step = 'broker' AND up_to >= half) AS broker_p50_ms,
       min(ms) FILTER (WHERE step = 'broker' AND up_to >= most) AS broker_p99_ms,
       min(ms) FILTER (WHERE step = 'decision' AND up_to >= half) AS decision_p50_ms,
       min(ms) FILTER (WHERE step = 'decision' AND up_to >= most) AS decision_p99_ms,
       min(ms) FILTER (WHERE step = 'execution' AND up_to >= half) AS execution_p50_ms,
       min(ms) FILTER (WHERE step = 'execution' AND up_to >= most) AS execution_p99_ms,
       min(ms) FILTER (WHERE step = 'total' AND up_to >= half) AS total_p50_ms,
       min(ms) FILTER (WHERE step = 'total' AND up_to >= most) AS total_p99_ms
FROM (SELECT *, ceil(0.5::float8 * total) AS half, ceil(0.99::float8 * total) AS most
      FROM (SELECT hour, step, ms, sum(count) OVER (PARTITION BY hour, step ORDER BY ms) AS up_to,
                   sum(count) OVER (PARTITION BY hour, step) AS total
            FROM (SELECT hour, step, ms, sum(executions) AS count
                  FROM (SELECT * FROM bybit.latency_count
                        UNION ALL
                        SELECT * FROM bybit.latencies(coalesce((SELECT execution_id FROM bybit.latency_check), 0),
                                                      9223372036854775807)) AS part
                  GROUP BY hour, step, ms) AS counted) AS ranked) AS ranked
GROUP BY hour;

CREATE OR REPLACE VIEW bybit.spread AS
SELECT execution_id, spread_id, long_channel, long_symbol, short_channel, short_symbol, opened_at,
       CASE WHEN opened = closed THEN last_close END AS closed_at,
       opened AS opened_quantity, closed AS closed_quantity, opened - closed AS left_quantity,
       entry_spread,
       cash - entry_spread * (opened - closed) AS closed_pnl,
       entry_spread * (opened - closed) AS entry_credit,
       cash,
       CASE WHEN opened = closed THEN last_close - opened_at END AS holding_ms,
       fee
FROM bybit.spread_total
UNION ALL
-- The types are those of the part above: only so conditions and orders reach the indexes of both.
SELECT NULL::bigint, NULL::text, long_channel, long_symbol, short_channel, short_symbol,
       NULL::bigint, NULL::bigint, 0::numeric, size_without_spread, 0::numeric, NULL::numeric, NULL::numeric, 0::numeric,
       cash_without_spread, NULL::bigint, NULL::numeric
FROM bybit.pair_total WHERE size_without_spread <> 0 OR cash_without_spread <> 0;

CREATE OR REPLACE VIEW bybit.open_spread AS SELECT * FROM bybit.spread WHERE left_quantity > 0;

-- The newest prices of an instrument. A function: the index gives them for one instrument at a time.
CREATE OR REPLACE FUNCTION bybit.last_quote(which_channel text, which_symbol text)
RETURNS TABLE (quoted_at bigint, bid numeric, ask numeric) LANGUAGE sql STABLE ROWS 1 AS $$
  SELECT q.quoted_at, q.bid, q.ask FROM bybit.quote AS q
  WHERE q.channel = which_channel AND q.symbol_name = which_symbol AND q.bid IS NOT NULL AND q.ask IS NOT NULL
  ORDER BY q.quoted_at DESC LIMIT 1
$$;

-- Pairs, and instruments by themselves for what belongs to no pair: what was unwound, and what is left over.
CREATE OR REPLACE VIEW bybit.pnl AS
SELECT long_channel, long_symbol, short_channel, short_symbol, closed_pnl, entry_credit, cash_without_spread, cash,
       unwound_cash, fee, cash - fee AS net_cash, leftover_cash,
       open_at_mark, cash - entry_credit - cash_without_spread - fee + open_at_mark AS total, marked_at,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint - marked_at AS mark_age_ms
FROM (
  SELECT p.long_channel, p.long_symbol, p.short_channel, p.short_symbol,
         p.cash - coalesce(o.entry_credit, 0) - p.cash_without_spread AS closed_pnl,
         coalesce(o.entry_credit, 0) AS entry_credit, p.cash_without_spread, p.cash,
         0::numeric AS unwound_cash, p.fee, 0::numeric AS leftover_cash,
         CASE WHEN o.quantity IS NULL THEN 0 ELSE o.entry_credit + o.quantity * (long.bid - short.ask) END
         + CASE p.size_without_spread WHEN 0 THEN p.cash_without_spread
           ELSE p.cash_without_spread + p.size_without_spread * (short.bid - long.ask) END AS open_at_mark,
         -- NULL where a quote is missing: least() would take the other.
         CASE WHEN o.quantity IS NULL AND p.size_without_spread = 0 THEN NULL
              WHEN long.quoted_at < short.quoted_at THEN long.quoted_at
              WHEN short.quoted_at <= long.quoted_at THEN short.quoted_at END AS marked_at
  FROM bybit.pair_total AS p
  LEFT JOIN (SELECT long_channel, long_symbol, short_channel, short_symbol,
                    sum(entry_spread * (opened - closed)) AS entry_credit, sum(opened - closed) AS quantity
             FROM bybit.spread_total WHERE opened - closed > 0 GROUP BY 1, 2, 3, 4) AS o
         USING (long_channel, long_symbol, short_channel, short_symbol)
  LEFT JOIN LATERAL bybit.last_quote(p.long_channel, p.long_symbol) AS long ON true
  LEFT JOIN LATERAL bybit.last_quote(p.short_channel, p.short_symbol) AS short ON true
  UNION ALL
  SELECT channel COLLATE "C", symbol_name COLLATE "C", NULL, NULL, 0, 0, 0, coalesce(unwound_cash, 0),
         coalesce(unwound_cash, 0), coalesce(unwound_fee, 0) + coalesce(left_over.fee, 0), coalesce(left_over.flux, 0),
         CASE WHEN left_over.fee IS NULL THEN 0
              ELSE left_over.flux + left_over.bought * q.bid - left_over.sold * q.ask END,
         CASE WHEN left_over.fee IS NOT NULL THEN q.quoted_at END
  FROM (SELECT * FROM bybit.instrument_total WHERE unwinds > 0) AS unwound
  FULL JOIN (SELECT channel, symbol_name, sum(flux) AS flux, coalesce(sum(fee), 0) AS fee,
                    coalesce(sum(size) FILTER (WHERE size > 0), 0) AS bought,
                    coalesce(-sum(size) FILTER (WHERE size < 0), 0) AS sold
             FROM bybit.leftover WHERE resolution IS DISTINCT FROM 'traded away' GROUP BY channel, symbol_name)
         AS left_over USING (channel, symbol_name)
  LEFT JOIN LATERAL bybit.last_quote(channel, symbol_name) AS q ON true
) AS part;

-- Both directions of each two instruments of a group, second by second.
CREATE OR REPLACE VIEW bybit.spread_history AS
SELECT long.quoted_at, long.matching_key, long.channel AS long_channel, long.symbol_name AS long_symbol,
       short.channel AS short_channel, short.symbol_name AS short_symbol, long.ask AS long_ask, short.bid AS short_bid,
       short.bid - long.ask AS spread, round((short.bid - long.ask) / long.ask * 10000, 4) AS spread_bps,
       least(long.ask_size, short.bid_size) AS size,
       long.quoted_at - least(long.received_at, short.received_at) AS age_ms
FROM bybit.quote AS long JOIN bybit.quote AS short USING (quoted_at, matching_key)
WHERE (long.channel, long.symbol_name) <> (short.channel, short.symbol_name)
  AND long.ask IS NOT NULL AND short.bid IS NOT NULL;

-- Deltas whose update id is not the one after that of the message before it.
CREATE OR REPLACE VIEW bybit.gaps AS
SELECT channel, topic, ts_orderbook, published_at, number, previous_id, update_id, missing, after_ms FROM bybit.update_gap
UNION ALL
SELECT channel, topic, ts_orderbook, published_at, number, previous_id, update_id, missing, after_ms
FROM bybit.gaps_between(coalesce((SELECT ts_orderbook FROM bybit.gap_check), 0), 9223372036854775807);

-- What waits to be traded away or accepted.
CREATE OR REPLACE VIEW bybit.open_leftover AS
SELECT trade_id, number, channel, symbol_name, size, trim_scale(round(abs(flux / size), 12)) AS price, reason, since,
       long_channel, long_symbol, short_channel, short_symbol
FROM bybit.leftover WHERE resolved_at IS NULL;

COMMENT ON TABLE bybit.orderbook IS 'Price levels of stored order-book messages, one row per level. Source: Bybit''s public stream, written by the data storage service. Times in milliseconds since 1970.';
COMMENT ON COLUMN bybit.orderbook.topic IS 'Topic of the stream, as orderbook.50.BTCUSDT (field topic)';
COMMENT ON COLUMN bybit.orderbook.type IS 'snapshot or delta (field type)';
COMMENT ON COLUMN bybit.orderbook.ts_message IS 'When the exchange made the message, ms (field ts)';
COMMENT ON COLUMN bybit.orderbook.channel IS 'Market category, as spot or linear; set by the collector';
COMMENT ON COLUMN bybit.orderbook.symbol_name IS 'Symbol, as BTCUSDT (field s)';
COMMENT ON COLUMN bybit.orderbook.update_id IS 'Number of the update within the stream of the symbol (field u); 1 is a snapshot after a restart of the exchange';
COMMENT ON COLUMN bybit.orderbook.sequence_id IS 'Cross sequence: a lower one was generated earlier (field seq)';
COMMENT ON COLUMN bybit.orderbook.side IS 'bid or ask';
COMMENT ON COLUMN bybit.orderbook.price IS 'Price of the level in quote coin, exactly as sent';
COMMENT ON COLUMN bybit.orderbook.size IS 'Size at the level, in base coin for spot and linear, exactly as sent; 0 removes the level';
COMMENT ON COLUMN bybit.orderbook.ts_orderbook IS 'Time of the matching engine, ms (field cts); the partitioning column';
COMMENT ON COLUMN bybit.orderbook.matching_key IS 'Group of instruments that were traded against each other; set by the collector';

COMMENT ON TABLE bybit.orderbook_update IS 'Stored order-book messages, one row per message, in one transaction with its levels. The key identifies copies: a message that arrives twice is stored once.';
COMMENT ON COLUMN bybit.orderbook_update.ts_orderbook IS 'Time of the matching engine, ms since 1970 (field cts)';
COMMENT ON COLUMN bybit.orderbook_update.update_id IS 'Number of the update (field u)';
COMMENT ON COLUMN bybit.orderbook_update.sequence_id IS 'Cross sequence (field seq)';
COMMENT ON COLUMN bybit.orderbook_update.channel IS 'Market category, as spot or linear; set by the collector';
COMMENT ON COLUMN bybit.orderbook_update.topic IS 'Topic of the stream, as orderbook.50.BTCUSDT (field topic)';
COMMENT ON COLUMN bybit.orderbook_update.type IS 'snapshot or delta (field type)';
COMMENT ON COLUMN bybit.orderbook_update.published_at IS 'When the collector received the message, ms since 1970 (header published_at); NULL for messages of other publishers and of versions before 0.2.0';
COMMENT ON COLUMN bybit.orderbook_update.number IS 'Order of publishing over all instruments, strictly rising (header number): about nanoseconds since 1970; of copies that of the first; NULL as published_at';
COMMENT ON COLUMN bybit.orderbook_update.as_sent IS 'Order of the levels in the message: NULL for best first on both sides (as Bybit sends them, and of versions before 0.2.0), removed first for levels of size 0 before the others, each part best first, else the levels as they came (JSON), which is so of a message without levels too';

COMMENT ON TABLE bybit.quote IS 'Best prices of each order book, one row per second and instrument. Taken by the signal engine from the books that it trades on, written by the data storage service; seconds without a signal engine have no row.';
COMMENT ON COLUMN bybit.quote.quoted_at IS 'The whole second that the row is of, by the signal engine''s clock, ms since 1970';
COMMENT ON COLUMN bybit.quote.channel IS 'Market category, as spot or linear';
COMMENT ON COLUMN bybit.quote.symbol_name IS 'Symbol, as BTCUSDT';
COMMENT ON COLUMN bybit.quote.matching_key IS 'Group that the instrument was in; NULL where in none';
COMMENT ON COLUMN bybit.quote.state IS 'in sync, or waits for snapshot: then the book is not traded on, and the row has no prices';
COMMENT ON COLUMN bybit.quote.bid IS 'Best bid in quote coin; NULL where the side is empty';
COMMENT ON COLUMN bybit.quote.bid_size IS 'Size at the best bid as the exchange has it, in base coin for spot and linear';
COMMENT ON COLUMN bybit.quote.ask IS 'Best ask in quote coin; NULL where the side is empty';
COMMENT ON COLUMN bybit.quote.ask_size IS 'Size at the best ask as the exchange has it, in base coin for spot and linear';
COMMENT ON COLUMN bybit.quote.received_at IS 'When the collector received the last message that agreed with the book, ms since 1970: quoted_at - received_at is the age of the prices';
COMMENT ON COLUMN bybit.quote.number IS 'number of the last message that the book had seen, see bybit.orderbook_update.number: replayed up to it, the stored messages give this book';

COMMENT ON TABLE bybit."order" IS 'Executions, two rows each: the buy leg and the sell leg, both or neither. Written by the trading engine. Never trimmed: exposure, PnL and open spreads are computed from it at start.';
COMMENT ON COLUMN bybit."order".channel IS 'Market category of the leg, as spot or linear';
COMMENT ON COLUMN bybit."order".symbol_name IS 'Symbol of the leg, as BTCUSDT';
COMMENT ON COLUMN bybit."order".price IS 'Price in quote coin: that of the order; of a real order the average of its fills in 12 decimals';
COMMENT ON COLUMN bybit."order".size IS 'Size in base coin, above 0; the same on both legs';
COMMENT ON COLUMN bybit."order".type IS 'buy or sell';
COMMENT ON COLUMN bybit."order".flux IS 'Cash in quote coin, without fees: -price * size for a buy, price * size for a sell; of a real order exactly that of its fills';
COMMENT ON COLUMN bybit."order".ts_orderbook IS 'Time of the matching engine (cts) of the book that this leg was traded on, ms since 1970; of an Unwind the exchange''s time of the last fill';
COMMENT ON COLUMN bybit."order".order_id IS 'Id given by the sender; NULL where it gave none';
COMMENT ON COLUMN bybit."order".action IS 'Open Spread or Close Spread; Unwind where a real trade bought and sold the same size of one instrument, because its legs came out unequal';
COMMENT ON COLUMN bybit."order".spread_id IS 'The spread that is opened or closed; NULL for a close of whatever is oldest of the pair';
COMMENT ON COLUMN bybit."order".placed_at IS 'When the trading engine executed the order, by its own clock, ms since 1970';
COMMENT ON COLUMN bybit."order".execution_id IS 'Rises in the order of execution; shared by both legs';
COMMENT ON COLUMN bybit."order".request_key IS 'Identifies the request of an order without order_id when the broker redelivers it';
COMMENT ON COLUMN bybit."order".fee IS 'Fee of the leg in quote coin, above 0 paid, below 0 received; a fee taken in base coin at the price of its fill. NULL for a simulated order without TAKER_FEE_SPOT and TAKER_FEE_LINEAR, and for a fee in a coin of unknown price';
COMMENT ON COLUMN bybit."order".trade_id IS 'Identifies the real trade: bybit.fill and bybit.leftover have the same; NULL for a simulated order';
COMMENT ON COLUMN bybit."order".asked_price IS 'Price of the order, where price is that of its fills; NULL for a simulated order and an Unwind';
COMMENT ON COLUMN bybit."order".asked_size IS 'Size of the order, where size is what both legs have executed; NULL for a simulated order and an Unwind';

COMMENT ON COLUMN bybit."order".published_at IS 'When the collector received the last message of the leg''s book, ms since 1970; NULL where the sender gave no times';
COMMENT ON COLUMN bybit."order".received_at IS 'When the signal engine took that message from the broker, ms since 1970; NULL as published_at';
COMMENT ON COLUMN bybit."order".decided_at IS 'When the signal engine made the order, ms since 1970; NULL as published_at';

COMMENT ON TABLE bybit.refused_order IS 'Orders that were answered NOT ACK, one row each. Written by the trading engine; asked again, an order gets the same answer.';
COMMENT ON COLUMN bybit.refused_order.execution_id IS 'From the same sequence as bybit."order".execution_id';
COMMENT ON COLUMN bybit.refused_order.order_id IS 'Id given by the sender; NULL where it gave none';
COMMENT ON COLUMN bybit.refused_order.request_key IS 'Identifies the request of an order without order_id';
COMMENT ON COLUMN bybit.refused_order.info IS 'The reason that was given in the answer';
COMMENT ON COLUMN bybit.refused_order.answered_at IS 'When the trading engine refused it, by its own clock, ms since 1970';
COMMENT ON COLUMN bybit.refused_order.trade_id IS 'Identifies the real trade whose legs were sent; NULL where nothing was sent';

COMMENT ON TABLE bybit.fill IS 'Executions of real orders as the exchange reported them. Written by the trading engine when the trade is over, in one transaction with what they add up to.';
COMMENT ON COLUMN bybit.fill.link_id IS 'Our id of the order at the exchange (orderLinkId)';
COMMENT ON COLUMN bybit.fill.exec_id IS 'The exchange''s id of the execution (execId)';
COMMENT ON COLUMN bybit.fill.trade_id IS 'Identifies the trade that the order belongs to';
COMMENT ON COLUMN bybit.fill.channel IS 'Market category, as spot or linear';
COMMENT ON COLUMN bybit.fill.symbol_name IS 'Symbol, as BTCUSDT';
COMMENT ON COLUMN bybit.fill.side IS 'buy or sell';
COMMENT ON COLUMN bybit.fill.price IS 'Price in quote coin (execPrice)';
COMMENT ON COLUMN bybit.fill.size IS 'Size in base coin, above 0, before fees (execQty)';
COMMENT ON COLUMN bybit.fill.value IS 'price * size in quote coin';
COMMENT ON COLUMN bybit.fill.fee IS 'Fee in fee_coin, above 0 paid, below 0 received (execFee)';
COMMENT ON COLUMN bybit.fill.fee_coin IS 'Coin of the fee (feeCurrency): on spot the base coin for a buy';
COMMENT ON COLUMN bybit.fill.exec_type IS 'Kind of execution (execType), as Trade';
COMMENT ON COLUMN bybit.fill.ts IS 'The exchange''s time of the execution, ms since 1970 (execTime)';

COMMENT ON TABLE bybit.leftover IS 'What real trades have left of one instrument: bought and not sold again, or the other way round. Written by the trading engine.';
COMMENT ON COLUMN bybit.leftover.trade_id IS 'Identifies the trade that has left it';
COMMENT ON COLUMN bybit.leftover.number IS 'Tells the leftovers of a trade apart';
COMMENT ON COLUMN bybit.leftover.channel IS 'Market category, as spot or linear';
COMMENT ON COLUMN bybit.leftover.symbol_name IS 'Symbol, as BTCUSDT';
COMMENT ON COLUMN bybit.leftover.size IS 'Size in base coin, after fees in base coin: above 0 bought, below 0 sold';
COMMENT ON COLUMN bybit.leftover.flux IS 'Cash in quote coin, without fees: below 0 paid, above 0 received';
COMMENT ON COLUMN bybit.leftover.fee IS 'Fee in quote coin, as in bybit."order"';
COMMENT ON COLUMN bybit.leftover.reason IS 'Why it is left; dust is too small to be traded and blocks nothing';
COMMENT ON COLUMN bybit.leftover.since IS 'When it was booked, by the trading engine''s clock, ms since 1970';
COMMENT ON COLUMN bybit.leftover.long_channel IS 'Market category of the long leg of the pair whose opens it blocks; NULL where it blocks every pair of its instrument';
COMMENT ON COLUMN bybit.leftover.long_symbol IS 'Symbol of the long leg of that pair';
COMMENT ON COLUMN bybit.leftover.short_channel IS 'Market category of the short leg of that pair';
COMMENT ON COLUMN bybit.leftover.short_symbol IS 'Symbol of the short leg of that pair';
COMMENT ON COLUMN bybit.leftover.resolved_at IS 'When it was resolved, ms since 1970; NULL while it is open';
COMMENT ON COLUMN bybit.leftover.resolution IS 'dust: too small to be traded; traded away: in an Unwind of bybit."order" now; accepted: left as it is, by request. All but what was traded away still count as held';

COMMENT ON TABLE bybit.history IS 'One row: which history the order tables hold, and which trading engine accounts for it.';
COMMENT ON COLUMN bybit.history.id IS 'Identifies the history; new when the orders are emptied';
COMMENT ON COLUMN bybit.history.engine IS 'The trading engine process that may write; NULL until one has started';
COMMENT ON COLUMN bybit.history.journal IS 'That engine''s journal: boot, file system and number of its lock file; an engine with the same journal takes over at once';
COMMENT ON COLUMN bybit.history.place IS 'Host and process of that engine';
COMMENT ON COLUMN bybit.history.renewals IS 'Counts up while that engine works; another one takes over that has not seen it change for LEASE_MS';
COMMENT ON COLUMN bybit.history.standby_seen IS 'When an engine on standby looked at the lease last; NULL while none has since the last claim';
COMMENT ON COLUMN bybit.history.one_row IS 'Always true: keeps the table at one row';
COMMENT ON COLUMN bybit.history.mode IS 'Kind of orders, simulated or real; NULL until an engine starts';
COMMENT ON COLUMN bybit.history.environment IS 'Bybit''s environment: demo, testnet or mainnet; NULL until an engine starts';
COMMENT ON COLUMN bybit.history.account IS 'The exchange''s id of the account that real orders were made with (userID); NULL until one is known';

COMMENT ON VIEW bybit.position IS 'What is held of each instrument, from bybit."order"';
COMMENT ON COLUMN bybit.position.channel IS 'Market category, as spot or linear';
COMMENT ON COLUMN bybit.position.symbol_name IS 'Symbol, as BTCUSDT';
COMMENT ON COLUMN bybit.position.size IS 'Bought less sold, in base coin: above 0 long, below 0 short';
COMMENT ON COLUMN bybit.position.exposure IS 'Cash paid less cash received, in quote coin: -sum(flux), which MAX_RISK_OPEN_POSITION limits under RISK_MODEL=cash';
COMMENT ON COLUMN bybit.position.executions IS 'Executions with a leg of this instrument';
COMMENT ON COLUMN bybit.position.leftover_size IS 'What real trades have left of it, dust included, in base coin: above 0 long, below 0 short';
COMMENT ON COLUMN bybit.position.held_size IS 'size + leftover_size: what the fills of Blackbird''s orders, less fees in base coin, add up to';

COMMENT ON VIEW bybit.execution IS 'Executions with both legs in one row, from bybit."order"';
COMMENT ON COLUMN bybit.execution.execution_id IS 'Rises in the order of execution';
COMMENT ON COLUMN bybit.execution.action IS 'Open Spread, Close Spread or Unwind: see bybit."order"';
COMMENT ON COLUMN bybit.execution.spread_id IS 'The spread that is opened or closed; NULL for a close of whatever is oldest of the pair';
COMMENT ON COLUMN bybit.execution.order_id IS 'Id given by the sender; NULL where it gave none';
COMMENT ON COLUMN bybit.execution.buy_channel IS 'Market category of the instrument that was bought';
COMMENT ON COLUMN bybit.execution.buy_symbol IS 'Symbol of the instrument that was bought';
COMMENT ON COLUMN bybit.execution.buy_price IS 'Price of the buy leg in quote coin';
COMMENT ON COLUMN bybit.execution.sell_channel IS 'Market category of the instrument that was sold';
COMMENT ON COLUMN bybit.execution.sell_symbol IS 'Symbol of the instrument that was sold';
COMMENT ON COLUMN bybit.execution.sell_price IS 'Price of the sell leg in quote coin';
COMMENT ON COLUMN bybit.execution.size IS 'Size of each leg in base coin';
COMMENT ON COLUMN bybit.execution.cash IS 'Sum of both legs'' flux in quote coin, without fees: above 0 received, below 0 paid';
COMMENT ON COLUMN bybit.execution.placed_at IS 'When the trading engine executed the order, by its own clock, ms since 1970';
COMMENT ON COLUMN bybit.execution.buy_ts_orderbook IS 'Time of the matching engine (cts) of the bought instrument''s book, ms since 1970';
COMMENT ON COLUMN bybit.execution.sell_ts_orderbook IS 'Time of the matching engine (cts) of the sold instrument''s book, ms since 1970';
COMMENT ON COLUMN bybit.execution.buy_book_age_ms IS 'placed_at - buy_ts_orderbook: age of that book, between two clocks';
COMMENT ON COLUMN bybit.execution.sell_book_age_ms IS 'placed_at - sell_ts_orderbook: age of that book, between two clocks';
COMMENT ON COLUMN bybit.execution.fee IS 'Fees of both legs in quote coin, above 0 paid; NULL where that of a leg is';
COMMENT ON COLUMN bybit.execution.trade_id IS 'Identifies the real trade; NULL for a simulated order';
COMMENT ON COLUMN bybit.execution.asked_size IS 'Size of the real order; size is what was executed';
COMMENT ON COLUMN bybit.execution.buy_asked_price IS 'Price of the real order''s buy leg; buy_price is that of its fills';
COMMENT ON COLUMN bybit.execution.sell_asked_price IS 'Price of the real order''s sell leg; sell_price is that of its fills';

COMMENT ON COLUMN bybit.execution.buy_published_at IS 'When the collector received the last message of the bought instrument''s book, ms since 1970; NULL where the sender gave no times';
COMMENT ON COLUMN bybit.execution.sell_published_at IS 'The same of the sold instrument''s book';
COMMENT ON COLUMN bybit.execution.buy_received_at IS 'When the signal engine took the last message of the bought instrument''s book, ms since 1970';
COMMENT ON COLUMN bybit.execution.sell_received_at IS 'The same of the sold instrument''s book';
COMMENT ON COLUMN bybit.execution.decided_at IS 'When the signal engine made the order, ms since 1970';

COMMENT ON VIEW bybit.latency IS 'How long orders took, by hour: from the newer book''s message to the execution, in steps. Times of executions without Unwind that have them; between two machines'' clocks where they are two.';
COMMENT ON COLUMN bybit.latency.hour IS 'Beginning of the hour, ms since 1970';
COMMENT ON COLUMN bybit.latency.executions IS 'Executions that have the times';
COMMENT ON COLUMN bybit.latency.exchange_p50_ms IS 'Matching engine (cts) to the collector, median, ms';
COMMENT ON COLUMN bybit.latency.exchange_p99_ms IS 'Matching engine (cts) to the collector, 99th percentile, ms';
COMMENT ON COLUMN bybit.latency.broker_p50_ms IS 'Collector to the signal engine, median, ms';
COMMENT ON COLUMN bybit.latency.broker_p99_ms IS 'Collector to the signal engine, 99th percentile, ms';
COMMENT ON COLUMN bybit.latency.decision_p50_ms IS 'Signal engine''s receipt to the order, median, ms: long for the later orders of one message';
COMMENT ON COLUMN bybit.latency.decision_p99_ms IS 'Signal engine''s receipt to the order, 99th percentile, ms';
COMMENT ON COLUMN bybit.latency.execution_p50_ms IS 'Order to its execution by the trading engine, median, ms';
COMMENT ON COLUMN bybit.latency.execution_p99_ms IS 'Order to its execution by the trading engine, 99th percentile, ms';
COMMENT ON COLUMN bybit.latency.total_p50_ms IS 'Matching engine (cts) to the execution, median, ms';
COMMENT ON COLUMN bybit.latency.total_p99_ms IS 'Matching engine (cts) to the execution, 99th percentile, ms';

COMMENT ON VIEW bybit.spread IS 'Spreads with what they earned, from bybit."order". A close without spread_id takes from the oldest open spreads of its pair, as in the trading engine; what it takes beyond all that is open is a row per pair without execution_id and spread_id.';
COMMENT ON COLUMN bybit.spread.execution_id IS 'The execution that opened the spread; NULL in the row of closes without a spread';
COMMENT ON COLUMN bybit.spread.spread_id IS 'Id of the spread; one that was closed may be opened again, as another row';
COMMENT ON COLUMN bybit.spread.long_channel IS 'Market category of the instrument that was bought to open';
COMMENT ON COLUMN bybit.spread.long_symbol IS 'Symbol of the instrument that was bought to open';
COMMENT ON COLUMN bybit.spread.short_channel IS 'Market category of the instrument that was sold to open';
COMMENT ON COLUMN bybit.spread.short_symbol IS 'Symbol of the instrument that was sold to open';
COMMENT ON COLUMN bybit.spread.opened_at IS 'placed_at of the opening, ms since 1970';
COMMENT ON COLUMN bybit.spread.closed_at IS 'placed_at of the close that left nothing, ms since 1970; NULL while something is left';
COMMENT ON COLUMN bybit.spread.opened_quantity IS 'Size at the opening in base coin';
COMMENT ON COLUMN bybit.spread.closed_quantity IS 'Size that has been closed, in base coin';
COMMENT ON COLUMN bybit.spread.left_quantity IS 'Size that is still open, in base coin';
COMMENT ON COLUMN bybit.spread.entry_spread IS 'Price sold less price bought at the opening, in quote coin';
COMMENT ON COLUMN bybit.spread.closed_pnl IS 'cash - entry_credit, in quote coin, without fees: what the closed part has earned; NULL in the row of closes without a spread';
COMMENT ON COLUMN bybit.spread.entry_credit IS 'entry_spread * left_quantity, in quote coin: received at entry for what is still open, which is no profit yet';
COMMENT ON COLUMN bybit.spread.cash IS 'Flux of the opening and of its share of closes, in quote coin, without fees: above 0 received; the sum of all rows is sum(flux) of all but Unwind';
COMMENT ON COLUMN bybit.spread.holding_ms IS 'closed_at - opened_at; NULL while something is left';
COMMENT ON COLUMN bybit.spread.fee IS 'Fees of the opening and of the closes that name the spread, in quote coin; NULL where none is known';

COMMENT ON VIEW bybit.open_spread IS 'The rows of bybit.spread of which something is left';
DO $$
DECLARE
  name text;
  comment text;
BEGIN
  FOR name, comment IN SELECT attname, col_description(attrelid, attnum) FROM pg_attribute
                       WHERE attrelid = 'bybit.spread'::regclass AND attnum > 0 LOOP
    EXECUTE format('COMMENT ON COLUMN bybit.open_spread.%I IS %L', name, comment);
  END LOOP;
END $$;

COMMENT ON VIEW bybit.pnl IS 'What each pair has earned, and in rows without a short leg what was unwound and is left over of an instrument: closed_pnl + entry_credit + cash_without_spread + unwound_cash = cash, to the last digit';
COMMENT ON COLUMN bybit.pnl.long_channel IS 'Market category of the instrument that was bought to open, or of the instrument by itself';
COMMENT ON COLUMN bybit.pnl.long_symbol IS 'Symbol of the instrument that was bought to open, or of the instrument by itself';
COMMENT ON COLUMN bybit.pnl.short_channel IS 'Market category of the instrument that was sold to open; NULL for an instrument by itself';
COMMENT ON COLUMN bybit.pnl.short_symbol IS 'Symbol of the instrument that was sold to open; NULL for an instrument by itself';
COMMENT ON COLUMN bybit.pnl.closed_pnl IS 'What the closed parts of the spreads have earned, in quote coin, without fees';
COMMENT ON COLUMN bybit.pnl.entry_credit IS 'Received at entry for what is still open, in quote coin: no profit yet';
COMMENT ON COLUMN bybit.pnl.cash_without_spread IS 'Cash of closes beyond what was open, in quote coin: of a position that no spread accounts for';
COMMENT ON COLUMN bybit.pnl.cash IS 'Sum of flux, in quote coin, without fees; the sum of all rows is sum(flux)';
COMMENT ON COLUMN bybit.pnl.unwound_cash IS 'Sum of flux of Unwind, in quote coin: what unequal legs have cost';
COMMENT ON COLUMN bybit.pnl.fee IS 'Fees that are known, in quote coin, above 0 paid';
COMMENT ON COLUMN bybit.pnl.net_cash IS 'cash - fee';
COMMENT ON COLUMN bybit.pnl.leftover_cash IS 'Cash of what is left over, in quote coin, which is not part of cash: below 0 paid for what was bought';

COMMENT ON COLUMN bybit.pnl.open_at_mark IS 'What is open, closed at the newest quotes, in quote coin without the fees of that: entry_credit and what closing at best prices would bring or cost, closes without a spread and leftovers likewise; NULL where a quote is missing';
COMMENT ON COLUMN bybit.pnl.total IS 'closed_pnl + unwound_cash + open_at_mark - fee, in quote coin: what would be left if all were closed at the newest quotes; NULL as open_at_mark';
COMMENT ON COLUMN bybit.pnl.marked_at IS 'Second of the older of the quotes that open_at_mark is of, ms since 1970; NULL where nothing is open';
COMMENT ON COLUMN bybit.pnl.mark_age_ms IS 'Age of marked_at by the database''s clock, ms: an old mark says little';

COMMENT ON TABLE bybit.instrument_total IS 'What the executions add up to for each instrument. Kept by a trigger of bybit."order"; shown by bybit.position.';
COMMENT ON COLUMN bybit.instrument_total.channel IS 'Market category, as spot or linear';
COMMENT ON COLUMN bybit.instrument_total.symbol_name IS 'Symbol, as BTCUSDT';
COMMENT ON COLUMN bybit.instrument_total.size IS 'Bought less sold, in base coin: above 0 long, below 0 short';
COMMENT ON COLUMN bybit.instrument_total.exposure IS 'Cash paid less cash received, in quote coin: -sum(flux)';
COMMENT ON COLUMN bybit.instrument_total.executions IS 'Executions with a leg of this instrument';
COMMENT ON COLUMN bybit.instrument_total.unwinds IS 'Executions of action Unwind, which have both legs of this instrument';
COMMENT ON COLUMN bybit.instrument_total.unwound_cash IS 'Sum of flux of Unwind, in quote coin';
COMMENT ON COLUMN bybit.instrument_total.unwound_fee IS 'Known fees of Unwind in quote coin, above 0 paid';

COMMENT ON TABLE bybit.pair_total IS 'What the executions add up to for each pair, without Unwind. Kept by a trigger of bybit."order"; shown by bybit.pnl.';
COMMENT ON COLUMN bybit.pair_total.long_channel IS 'Market category of the instrument that was bought to open';
COMMENT ON COLUMN bybit.pair_total.long_symbol IS 'Symbol of the instrument that was bought to open';
COMMENT ON COLUMN bybit.pair_total.short_channel IS 'Market category of the instrument that was sold to open';
COMMENT ON COLUMN bybit.pair_total.short_symbol IS 'Symbol of the instrument that was sold to open';
COMMENT ON COLUMN bybit.pair_total.cash IS 'Sum of flux, in quote coin, without fees';
COMMENT ON COLUMN bybit.pair_total.fee IS 'Fees that are known, in quote coin, above 0 paid';
COMMENT ON COLUMN bybit.pair_total.size_without_spread IS 'Size of closes beyond what was open, in base coin';
COMMENT ON COLUMN bybit.pair_total.cash_without_spread IS 'Cash of closes beyond what was open, in quote coin';

COMMENT ON TABLE bybit.spread_total IS 'Each spread with what its closes have taken. Kept by a trigger of bybit."order"; shown by bybit.spread.';
COMMENT ON COLUMN bybit.spread_total.execution_id IS 'The execution that opened the spread';
COMMENT ON COLUMN bybit.spread_total.spread_id IS 'Id of the spread';
COMMENT ON COLUMN bybit.spread_total.long_channel IS 'Market category of the instrument that was bought to open';
COMMENT ON COLUMN bybit.spread_total.long_symbol IS 'Symbol of the instrument that was bought to open';
COMMENT ON COLUMN bybit.spread_total.short_channel IS 'Market category of the instrument that was sold to open';
COMMENT ON COLUMN bybit.spread_total.short_symbol IS 'Symbol of the instrument that was sold to open';
COMMENT ON COLUMN bybit.spread_total.opened_at IS 'placed_at of the opening, ms since 1970';
COMMENT ON COLUMN bybit.spread_total.last_close IS 'placed_at of the last close that took from it, ms since 1970; NULL before the first';
COMMENT ON COLUMN bybit.spread_total.opened IS 'Size at the opening in base coin';
COMMENT ON COLUMN bybit.spread_total.closed IS 'Size that has been closed, in base coin';
COMMENT ON COLUMN bybit.spread_total.entry_spread IS 'Price sold less price bought at the opening, in quote coin';
COMMENT ON COLUMN bybit.spread_total.cash IS 'Flux of the opening and of its share of closes, in quote coin, without fees';
COMMENT ON COLUMN bybit.spread_total.fee IS 'Fees of the opening and of the closes that name the spread, in quote coin; NULL where none is known';
COMMENT ON FUNCTION bybit.recount_orders() IS 'Works out bybit.instrument_total, pair_total and spread_total anew from bybit."order". Never needed unless triggers were off.';

COMMENT ON VIEW bybit.spread_history IS 'What could be earned by spreads, second by second, from bybit.quote: one row per direction of each two instruments of a group. Give it a range of quoted_at, or the symbols.';
COMMENT ON COLUMN bybit.spread_history.quoted_at IS 'The whole second, ms since 1970';
COMMENT ON COLUMN bybit.spread_history.matching_key IS 'The group of both instruments';
COMMENT ON COLUMN bybit.spread_history.long_channel IS 'Market category of the instrument that would be bought';
COMMENT ON COLUMN bybit.spread_history.long_symbol IS 'Symbol of the instrument that would be bought';
COMMENT ON COLUMN bybit.spread_history.short_channel IS 'Market category of the instrument that would be sold';
COMMENT ON COLUMN bybit.spread_history.short_symbol IS 'Symbol of the instrument that would be sold';
COMMENT ON COLUMN bybit.spread_history.long_ask IS 'Best ask of the instrument that would be bought, in quote coin';
COMMENT ON COLUMN bybit.spread_history.short_bid IS 'Best bid of the instrument that would be sold, in quote coin';
COMMENT ON COLUMN bybit.spread_history.spread IS 'short_bid - long_ask, in quote coin: a spread opens where this is above 0 (and above costs)';
COMMENT ON COLUMN bybit.spread_history.spread_bps IS 'spread in basis points of long_ask, in 4 decimals';
COMMENT ON COLUMN bybit.spread_history.size IS 'Size that could be executed at these prices, the smaller of both, in base coin';
COMMENT ON COLUMN bybit.spread_history.age_ms IS 'Age of the older of the two books at that second';

COMMENT ON VIEW bybit.gaps IS 'Jumps of the update id in stored order books: deltas that do not follow on the message before them. A message that is stored later than five minutes after younger ones of its stream is seen after bybit.forget_gaps(). With CONSECUTIVE_UPDATES=false ids may jump.';
COMMENT ON COLUMN bybit.gaps.channel IS 'Market category, as spot or linear';
COMMENT ON COLUMN bybit.gaps.topic IS 'Topic of the stream, as orderbook.50.BTCUSDT';
COMMENT ON COLUMN bybit.gaps.ts_orderbook IS 'Time of the matching engine (cts) of the delta after the gap, ms since 1970';
COMMENT ON COLUMN bybit.gaps.published_at IS 'When the collector received that delta, ms since 1970';
COMMENT ON COLUMN bybit.gaps.number IS 'number of that delta, see bybit.orderbook_update';
COMMENT ON COLUMN bybit.gaps.previous_id IS 'Update id (u) of the message before it';
COMMENT ON COLUMN bybit.gaps.update_id IS 'Update id (u) of that delta';
COMMENT ON COLUMN bybit.gaps.missing IS 'Updates that are missing between the two';
COMMENT ON COLUMN bybit.gaps.after_ms IS 'Time from the message before it, by the matching engine''s clock, ms';

DO $$
DECLARE
  name text;
  comment text;
BEGIN
  FOR name, comment IN SELECT attname, col_description(attrelid, attnum) FROM pg_attribute
                       WHERE attrelid = 'bybit.gaps'::regclass AND attnum > 0 LOOP
    EXECUTE format('COMMENT ON COLUMN bybit.update_gap.%I IS %L', name, comment);
  END LOOP;
END $$;

COMMENT ON VIEW bybit.open_leftover IS 'Leftovers that are not resolved: each keeps spreads of its pair from being opened';
COMMENT ON COLUMN bybit.open_leftover.trade_id IS 'Identifies the trade that has left it';
COMMENT ON COLUMN bybit.open_leftover.number IS 'Tells the leftovers of a trade apart';
COMMENT ON COLUMN bybit.open_leftover.channel IS 'Market category, as spot or linear';
COMMENT ON COLUMN bybit.open_leftover.symbol_name IS 'Symbol, as BTCUSDT';
COMMENT ON COLUMN bybit.open_leftover.size IS 'Size in base coin: above 0 bought, below 0 sold';
COMMENT ON COLUMN bybit.open_leftover.price IS 'Average price of it in quote coin, in 12 decimals';
COMMENT ON COLUMN bybit.open_leftover.reason IS 'Why it is left';
COMMENT ON COLUMN bybit.open_leftover.since IS 'When it was booked, by the trading engine''s clock, ms since 1970';
COMMENT ON COLUMN bybit.open_leftover.long_channel IS 'Market category of the long leg of the pair whose opens it blocks; NULL for every pair of its instrument';
COMMENT ON COLUMN bybit.open_leftover.long_symbol IS 'Symbol of the long leg of that pair';
COMMENT ON COLUMN bybit.open_leftover.short_channel IS 'Market category of the short leg of that pair';
COMMENT ON COLUMN bybit.open_leftover.short_symbol IS 'Symbol of the short leg of that pair';

SELECT coalesce((SELECT 'TimescaleDB ' || extversion FROM pg_extension WHERE extname = 'timescaledb'),
                'plain PostgreSQL ' || current_setting('server_version')) AS database;
