from diagd_cli.cli.app import main

main()
