#!/bin/sh
# The shop's page: made by this machine, at this moment, with data from the database machine.
if stock=$(timeout 5 wget -q -O - "http://${DB:-db}:8080/stock.txt"); then
    printf 'Content-Type: text/plain\r\n\r\n'
    echo "shop, served by $(hostname)"
    echo "stock, from ${DB:-db}:"
    echo "$stock" | sed 's/^/  /'
else
    printf 'Status: 502 Bad Gateway\r\nContent-Type: text/plain\r\n\r\n'
    echo "$(hostname) cannot reach ${DB:-db}"
fi
