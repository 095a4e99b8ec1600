"""SQLAlchemy's QueuePool alone: `queue_pool.py COUNT` prints `COUNT WALL CPU` for COUNT connect() and close() of a pool of ten
idle connections whose driver does nothing."""
import sys
import time

from sqlalchemy.pool import QueuePool


class Connection:
    def cursor(self): return None
    def commit(self): pass
    def rollback(self): pass
    def close(self): pass


def main():
    count = int(sys.argv[1])
    pool = QueuePool(Connection, pool_size=10, max_overflow=20)
    held = [pool.connect() for _ in range(10)]
    for connection in held:
        connection.close()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        connection = pool.connect()
        connection.close()
    print(count, time.perf_counter() - wall, time.process_time() - cpu)


main()
