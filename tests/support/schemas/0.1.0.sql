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
  PRIMARY KEY (ts_orderbook, update_id, sequence_id, channel, topic, type)
);

DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'timescaledb') THEN
    PERFORM create_hypertable('bybit.orderbook', 'ts_orderbook', chunk_time_interval => 86400000::bigint,
                              if_not_exists => true, migrate_data => true);
  ELSE
    CREATE INDEX IF NOT EXISTS orderbook_ts_orderbook_idx ON bybit.orderbook (ts_orderbook DESC);
  END IF;
END $$;

-- Two rows an execution, one a leg. flux is signed cash: minus for a buy.
CREATE TABLE IF NOT EXISTS bybit."order" (
  channel      text    NOT NULL,
  symbol_name  text    NOT NULL,
  price        numeric NOT NULL,
  size         numeric NOT NULL,
  type         text    NOT NULL CHECK (type IN ('buy', 'sell')),
  flux         numeric NOT NULL,
  ts_orderbook bigint  NOT NULL,  -- cts of the book that this leg was traded on
  order_id     text,              -- empty where the sender gave none
  action       text    NOT NULL,  -- Open Spread or Close Spread
  spread_id    text,              -- empty for a close of whatever is oldest
  placed_at    bigint  NOT NULL,  -- milliseconds
  execution_id bigint  NOT NULL,  -- rises in the order of execution
  request_key  text,              -- identifies a request that has no order_id
  PRIMARY KEY (execution_id, type)
);
CREATE UNIQUE INDEX IF NOT EXISTS order_order_id_idx ON bybit."order" (order_id, type);

-- Orders that were answered NOT ACK: asked again, they get the same answer.
CREATE TABLE IF NOT EXISTS bybit.refused_order (
  execution_id bigint PRIMARY KEY,  -- from the same sequence as the executions
  order_id     text,
  request_key  text,
  info         text   NOT NULL,
  answered_at  bigint NOT NULL      -- milliseconds
);

-- One row: which history the order tables hold, so that the trading engine's journal is never played into
-- another one.
CREATE TABLE IF NOT EXISTS bybit.history (
  id      uuid    NOT NULL DEFAULT gen_random_uuid(),
  engine  uuid,  -- the trading engine that accounts for it; another one takes over by putting itself here
  one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row)
);
INSERT INTO bybit.history DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Emptying a table empties what belongs to it: the system then starts from nothing.
CREATE OR REPLACE FUNCTION bybit.forget_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE bybit.refused_order;
  UPDATE bybit.history SET id = gen_random_uuid();
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS forget_orders ON bybit."order";
CREATE TRIGGER forget_orders AFTER TRUNCATE ON bybit."order"
  FOR EACH STATEMENT EXECUTE FUNCTION bybit.forget_orders();

CREATE OR REPLACE FUNCTION bybit.forget_updates() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE bybit.orderbook_update;
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS forget_updates ON bybit.orderbook;
CREATE TRIGGER forget_updates AFTER TRUNCATE ON bybit.orderbook
  FOR EACH STATEMENT EXECUTE FUNCTION bybit.forget_updates();

SELECT coalesce((SELECT 'TimescaleDB ' || extversion FROM pg_extension WHERE extname = 'timescaledb'),
                'plain PostgreSQL ' || current_setting('server_version')) AS database;
